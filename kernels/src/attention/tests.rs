//! The passes beside the formula in 64 bits.

use super::processor::{Gradients, Inputs, Known, LANES, backward, forward};
use super::{Columns, ColumnsMut};

/// Sequence, query heads, width of a head.
type Shape = [usize; 3];

fn wave(len: usize, speed: f64) -> Vec<f32> {
    (0..len).map(|i| ((i as f64 * speed).sin() * 1.5) as f32).collect()
}

/// Values of one case, all within rows that are wider than them.
struct Case {
    shape: Shape,
    /// Rows of q, k and v.
    rows: Vec<f32>,
    outer: Vec<f32>,
    scale: f32,
}

impl Case {
    fn new(shape: Shape) -> Self {
        let [sequence, heads, width] = shape;
        let rows = wave(sequence * (heads + 2) * width, 0.737);
        Self { shape, rows, outer: wave(sequence * heads * width, 0.911), scale: 0.6 }
    }

    fn inputs<'a>(&self, rows: &'a [f32]) -> Inputs<'a> {
        let [sequence, heads, width] = self.shape;
        let columns = |first: usize, count| {
            Columns::new(&rows[first * width..], sequence, (heads + 2) * width, count * width)
        };
        let [q, k, v] = [columns(0, heads), columns(heads, 1), columns(heads + 1, 1)];
        Inputs { q, k, v, scale: self.scale }
    }

    /// o and l.
    fn forward(&self) -> [Vec<f32>; 2] {
        let [sequence, heads, width] = self.shape;
        let mut output = vec![f32::NAN; sequence * heads * width];
        let mut logs = vec![f32::NAN; heads * sequence];
        let wide = ColumnsMut::split(&mut output, sequence, heads * width).next().unwrap();
        forward(self.inputs(&self.rows), wide, &mut logs).unwrap();
        [output, logs]
    }

    /// Of q, k and v beside each other, as the rows are.
    fn backward(&self) -> Vec<f32> {
        let [sequence, heads, width] = self.shape;
        let [output, logs] = self.forward();
        let mut q = vec![f32::NAN; sequence * heads * width];
        let mut both = vec![f32::NAN; sequence * 2 * width];
        let wide = |values| Columns::new(values, sequence, heads * width, heads * width);
        let known = Known { output: wide(&output), logs: &logs, gradient: wide(&self.outer) };
        {
            let mut parts = ColumnsMut::split(&mut both, sequence, width);
            let gradients = Gradients {
                q: ColumnsMut::split(&mut q, sequence, heads * width).next().unwrap(),
                k: parts.next().unwrap(),
                v: parts.next().unwrap(),
            };
            backward(self.inputs(&self.rows), known, gradients).unwrap();
        }
        let rows = q.chunks(heads * width).zip(both.chunks(2 * width));
        rows.flat_map(|(q, both)| q.iter().chain(both)).copied().collect()
    }

    /// o by the formula.
    fn textbook(&self, rows: &[f64]) -> Vec<f64> {
        let [sequence, heads, width] = self.shape;
        let part = |row: usize, head: usize| &rows[(row * (heads + 2) + head) * width..][..width];
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let mut output = Vec::new();
        for i in 0..sequence {
            for head in 0..heads {
                let score = |j| f64::from(self.scale) * product(part(i, head), part(j, heads));
                let powers: Vec<f64> = (0..=i).map(|j| score(j).exp()).collect();
                let sum: f64 = powers.iter().sum();
                output.extend((0..width).map(|d| {
                    let weighed = powers.iter().enumerate();
                    weighed.map(|(j, p)| p / sum * part(j, heads + 1)[d]).sum::<f64>()
                }));
            }
        }
        output
    }
}

const SHAPES: [Shape; 8] = [
    [1, 1, 1],
    [2, 1, 3],
    [7, 2, 5],
    [LANES, 1, 16],
    [LANES + 1, 3, 17],
    [47, 1, 4],
    [70, 2, 33],
    [6, 1, 70],
];

#[test]
fn it_is_the_formula() {
    for shape in SHAPES {
        let case = Case::new(shape);
        let wide: Vec<f64> = case.rows.iter().map(|&x| f64::from(x)).collect();
        let [output, _] = case.forward();
        for (found, wanted) in output.iter().zip(case.textbook(&wide)) {
            assert!((f64::from(*found) - wanted).abs() < 3e-6, "{shape:?}: {found} {wanted}");
        }
    }
}

// Goal: every value of every gradient is the slope of the formula.
#[test]
fn its_gradients_are_the_differences_of_the_formula() {
    for shape in SHAPES {
        let case = Case::new(shape);
        let wide: Vec<f64> = case.rows.iter().map(|&x| f64::from(x)).collect();
        let loss = |rows: &[f64]| -> f64 {
            let output = case.textbook(rows);
            output.iter().zip(&case.outer).map(|(o, outer)| o * f64::from(*outer)).sum()
        };
        let found = case.backward();
        // All of the small shapes, some of the large ones.
        for index in (0..wide.len()).step_by(1 + wide.len() / 150) {
            let at = |by: f64| {
                let mut moved = wide.clone();
                moved[index] += by;
                loss(&moved)
            };
            let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
            let found = f64::from(found[index]);
            assert!((found - slope).abs() < 2e-5, "{shape:?}, {index}: {found} {slope}");
        }
    }
}

// Goal: scores of any size; e to their power would be none.
#[test]
fn large_scores_do_no_harm() {
    let case = Case { scale: 300.0, ..Case::new([40, 1, 8]) };
    let [output, logs] = case.forward();
    assert!(output.iter().chain(&logs).all(|x| x.is_finite()));
    assert!(case.backward().iter().all(|x| x.is_finite()));
    let wide: Vec<f64> = case.rows.iter().map(|&x| f64::from(x)).collect();
    let first: Vec<f64> = wide[16..24].to_vec();
    assert!(output[..8].iter().zip(first).all(|(o, v)| f64::from(*o) == v), "one key only");
}

#[test]
fn what_is_no_number_stays_seen() {
    let mut case = Case::new([20, 1, 4]);
    case.rows[10 * 12 + 5] = f32::NAN;
    let [output, _] = case.forward();
    assert!(output[..40].iter().all(|x| x.is_finite()), "queries before that key do not see it");
    assert!(output[40..].iter().all(|x| x.is_nan()));
    assert!(case.backward().iter().any(|x| x.is_nan()));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let case = Case::new([3, 2, 4]);
    let inputs = case.inputs(&case.rows);
    let mut output = [0.0; 24];
    let mut run = |inputs, width, logs: &mut [f32]| {
        let wide = ColumnsMut::split(&mut output, 3, width).next().unwrap();
        forward(inputs, wide, logs).map_err(|error| error.to_string())
    };
    assert!(run(inputs, 8, &mut [0.0; 6]).is_ok());
    assert!(run(inputs, 8, &mut [0.0; 5]).unwrap_err().contains("logs"));
    assert!(run(inputs, 4, &mut [0.0; 6]).unwrap_err().contains("the output"));
    let short = Inputs { k: Columns::new(&case.rows[..12], 3, 16, 4), ..inputs };
    assert!(run(short, 8, &mut [0.0; 6]).unwrap_err().contains("keys has 4"));
    let odd = Inputs { q: Columns::new(&case.rows, 3, 16, 7), ..inputs };
    assert!(run(odd, 8, &mut [0.0; 6]).unwrap_err().contains("multiple"));
}

#[test]
fn a_sequence_without_tokens_has_no_output() {
    let inputs = {
        let columns = Columns::new(&[], 0, 4, 4);
        Inputs { q: columns, k: columns, v: columns, scale: 1.0 }
    };
    let mut untouched = [1.0; 16];
    {
        let mut parts = ColumnsMut::split(&mut untouched, 0, 4);
        let mut part = || parts.next().unwrap();
        forward(inputs, part(), &mut []).unwrap();
        let known = Known { output: inputs.q, logs: &[], gradient: inputs.q };
        backward(inputs, known, Gradients { q: part(), k: part(), v: part() }).unwrap();
    }
    assert_eq!(untouched, [1.0; 16]);
}
