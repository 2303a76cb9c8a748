//! Operations whose backward pass is ours.
//!
//! libtorch makes its graph of gradients of the operations that it knows. An operation of ours
//! computes without it, and is then recorded as one step of that graph with a closure that turns
//! the gradients of its results into those of its inputs. The few lines of C++ that this needs are
//! in `function.cpp`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tch::{TchError, Tensor};
use torch_sys::C_tensor;

/// Longest message of an error, with its zero byte.
const MESSAGE_BYTES: usize = 512;

/// From the gradients of the results, `None` for one that nothing depends on, to those of the
/// inputs, `None` for one that has none. Runs in a thread of libtorch's, without a graph. The
/// gradients may be shared with others: it must not change them.
type Backward = Box<dyn FnOnce(Vec<Option<Tensor>>) -> tch::Result<Vec<Option<Tensor>>> + Send>;

#[expect(unsafe_code, reason = "functions of function.cpp")]
unsafe extern "C" {
    fn brine_is_recorded(inputs: *const *const C_tensor, count: usize) -> bool;
    fn brine_allow_cudnn_attention(allowed: bool);
    fn brine_record(
        inputs: *const *const C_tensor,
        input_count: usize,
        outputs: *const *const C_tensor,
        output_count: usize,
        state: *mut c_void,
        backward: unsafe extern "C" fn(
            *mut c_void,
            *const *mut C_tensor,
            usize,
            *mut *mut C_tensor,
            usize,
            *mut c_char,
            usize,
        ) -> c_int,
        release: unsafe extern "C" fn(*mut c_void),
        message: *mut c_char,
        bytes: usize,
    ) -> c_int;
}

/// Whether attention on a GPU may be cuDNN's from now on.
pub(super) fn allow_cudnn_attention(allowed: bool) {
    // SAFETY: sets a flag of libtorch's, which is read when attention is asked for.
    #[expect(unsafe_code, reason = "a switch that tch does not have")]
    unsafe {
        brine_allow_cudnn_attention(allowed);
    }
}

/// Whether a result of `inputs` takes part in a gradient, and so must be recorded.
pub(super) fn is_recorded(inputs: &[&Tensor]) -> bool {
    let inputs = pointers(inputs);
    // SAFETY: the pointers are those of tensors that are borrowed meanwhile.
    #[expect(unsafe_code, reason = "libtorch's graph of gradients")]
    unsafe {
        brine_is_recorded(inputs.as_ptr(), inputs.len())
    }
}

/// Makes `outputs`, which were computed of `inputs` without a graph, their results, whose gradients
/// go through `backward`. It runs once; afterwards, or when the graph is dropped, what it holds is
/// free. It must not hold one of `outputs`, which would keep each other alive.
///
/// # Errors
/// libtorch refuses: a result is not of a floating-point kind.
pub(super) fn record(
    inputs: &[&Tensor],
    outputs: &[&Tensor],
    backward: impl FnOnce(Vec<Option<Tensor>>) -> tch::Result<Vec<Option<Tensor>>> + Send + 'static,
) -> tch::Result<()> {
    let (inputs, outputs) = (pointers(inputs), pointers(outputs));
    let backward: Backward = Box::new(backward);
    let state = Box::into_raw(Box::new(backward)).cast();
    let mut message = [0; MESSAGE_BYTES];
    // SAFETY: the tensors are borrowed meanwhile; the state is a `Backward` of its own box, as the
    // two functions expect, and belongs to the callee.
    #[expect(unsafe_code, reason = "libtorch's graph of gradients")]
    let failed = unsafe {
        brine_record(
            inputs.as_ptr(),
            inputs.len(),
            outputs.as_ptr(),
            outputs.len(),
            state,
            run_backward,
            release,
            message.as_mut_ptr(),
            message.len(),
        )
    };
    if failed == 0 {
        return Ok(());
    }
    // SAFETY: the callee ends its message with a zero byte within the buffer.
    #[expect(unsafe_code, reason = "a message of C")]
    let message = unsafe { CStr::from_ptr(message.as_ptr()) };
    Err(TchError::Torch(message.to_string_lossy().into_owned()))
}

fn pointers(tensors: &[&Tensor]) -> Vec<*const C_tensor> {
    tensors.iter().map(|tensor| tensor.as_ptr()).collect()
}

/// Called by libtorch, once, with the state of [`record`], which it gives up; `outputs` are
/// borrowed, `inputs` are places for tensors that it takes.
#[expect(unsafe_code, reason = "called by C++ with what `record` gave to it")]
unsafe extern "C" fn run_backward(
    state: *mut c_void,
    outputs: *const *mut C_tensor,
    output_count: usize,
    inputs: *mut *mut C_tensor,
    input_count: usize,
    message: *mut c_char,
    bytes: usize,
) -> c_int {
    // SAFETY: the state is that of `record`; the arrays and the buffer have these lengths.
    let (backward, outputs, inputs, message) = unsafe {
        (
            Box::from_raw(state.cast::<Backward>()),
            std::slice::from_raw_parts(outputs, output_count),
            std::slice::from_raw_parts_mut(inputs, input_count),
            std::slice::from_raw_parts_mut(message.cast::<u8>(), bytes),
        )
    };
    // A panic must not cross the boundary.
    let found = catch_unwind(AssertUnwindSafe(|| {
        let borrow = |&output: &*mut C_tensor| {
            // SAFETY: a tensor that the caller keeps meanwhile; this is another reference to it.
            (!output.is_null()).then(|| unsafe { Tensor::clone_from_ptr(output) })
        };
        backward(outputs.iter().map(borrow).collect())
    }));
    let problem = match found {
        Ok(Ok(gradients)) if gradients.len() == inputs.len() => {
            for (place, gradient) in inputs.iter_mut().zip(gradients) {
                *place = gradient.map_or(std::ptr::null_mut(), into_pointer);
            }
            return 0;
        }
        Ok(Ok(gradients)) => {
            format!("{} gradients for {} inputs", gradients.len(), inputs.len())
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the backward pass panicked".to_owned(),
    };
    let len = problem.len().min(bytes.saturating_sub(1));
    message[..len].copy_from_slice(&problem.as_bytes()[..len]);
    message[len] = 0;
    1
}

/// The tensor behind `tensor`, which the caller deletes.
fn into_pointer(tensor: Tensor) -> *mut C_tensor {
    let mut tensor = std::mem::ManuallyDrop::new(tensor);
    tensor.as_mut_ptr()
}

/// Called by libtorch with a state of [`record`] that is needed no more.
#[expect(unsafe_code, reason = "called by C++ with what `record` gave to it")]
unsafe extern "C" fn release(state: *mut c_void) {
    // SAFETY: the state is that of `record`, and the caller gives it up.
    let backward = unsafe { Box::from_raw(state.cast::<Backward>()) };
    // A destructor of ours that panics is a bug; the boundary must hold all the same.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(backward)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tch::{Device, Kind, no_grad};

    fn leaf(values: &[f32]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        Vec::try_from(tensor).unwrap()
    }

    fn gradients(loss: &Tensor, inputs: &[&Tensor]) -> tch::Result<Vec<Tensor>> {
        Tensor::f_run_backward(&[loss], inputs, false, false)
    }

    // Goal: two inputs, two results, each with its own part, inside of a graph of libtorch's.
    #[test]
    fn gradients_go_through_the_closure() {
        let (a, b) = (leaf(&[1.0, 2.0]), leaf(&[3.0, 5.0]));
        let doubled = &a * 2.0;
        let (sum, product) = no_grad(|| (&doubled + &b, &doubled * &b));
        let saved = (doubled.detach(), b.detach());
        record(&[&doubled, &b], &[&sum, &product], move |gradients| {
            let [Some(sum), Some(product)] = gradients.as_slice() else {
                panic!("both results are used")
            };
            let (doubled, b) = saved;
            Ok(vec![Some(sum + product * b), Some(sum + product * doubled)])
        })
        .unwrap();
        let loss = (&sum * 10.0 + &product).sum(Kind::Float);
        let found = gradients(&loss, &[&a, &b]).unwrap();
        assert_eq!(values(&found[0]), [2.0 * 13.0, 2.0 * 15.0]);
        assert_eq!(values(&found[1]), [12.0, 14.0]);
    }

    #[test]
    fn a_result_that_nothing_depends_on_has_no_gradient() {
        let a = leaf(&[1.0]);
        let (used, unused) = no_grad(|| (&a * 3.0, &a * 5.0));
        record(&[&a], &[&used, &unused], |gradients| {
            assert!(gradients[1].is_none());
            Ok(vec![gradients[0].as_ref().map(|gradient| gradient * 3.0)])
        })
        .unwrap();
        let found = gradients(&used.sum(Kind::Float), &[&a]).unwrap();
        assert_eq!(values(&found[0]), [3.0]);
    }

    #[test]
    fn what_goes_wrong_inside_is_an_error_outside() {
        type Closure = fn(Vec<Option<Tensor>>) -> tch::Result<Vec<Option<Tensor>>>;
        let cases: [(Closure, &str); 3] = [
            (|_| Err(TchError::Torch("no luck".to_owned())), "no luck"),
            (|_| Ok(vec![]), "0 gradients for 1 inputs"),
            (|_| panic!("oops"), "panicked"),
        ];
        for (closure, expected) in cases {
            let a = leaf(&[1.0]);
            let result = no_grad(|| &a * 2.0);
            record(&[&a], &[&result], closure).unwrap();
            let error = gradients(&result.sum(Kind::Float), &[&a]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_second_pass_through_a_used_step_is_an_error() {
        let a = leaf(&[1.0]);
        let result = no_grad(|| &a * 2.0);
        record(&[&a], &[&result], Ok).unwrap();
        let loss = result.sum(Kind::Float);
        Tensor::f_run_backward(&[&loss], &[&a], true, false).unwrap();
        let error = Tensor::f_run_backward(&[&loss], &[&a], true, false).unwrap_err().to_string();
        assert!(error.contains("used up"), "{error}");
    }

    #[test]
    fn a_closure_is_dropped_with_its_graph() {
        let witness = Arc::new(());
        let a = leaf(&[1.0]);
        let result = no_grad(|| &a * 2.0);
        let held = witness.clone();
        record(&[&a], &[&result], move |gradients| {
            let _held = held;
            Ok(gradients)
        })
        .unwrap();
        assert_eq!(Arc::strong_count(&witness), 2);
        drop(result);
        assert_eq!(Arc::strong_count(&witness), 1);
    }

    #[test]
    fn nothing_is_recorded_without_a_need() {
        let (leaf, constant) = (leaf(&[1.0]), Tensor::zeros([1], (Kind::Float, Device::Cpu)));
        assert!(is_recorded(&[&constant, &leaf]));
        assert!(!is_recorded(&[&constant]));
        assert!(!no_grad(|| is_recorded(&[&leaf])));
    }

    #[test]
    fn a_result_of_whole_numbers_is_refused() {
        let a = leaf(&[1.0]);
        let count = Tensor::from_slice(&[1i64]);
        let error = record(&[&a], &[&count], Ok).unwrap_err().to_string();
        assert!(error.contains("not support"), "{error}");
    }
}
