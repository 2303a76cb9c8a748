//! Causal attention.

use super::function::{allow_cudnn_attention, is_recorded, record};
use super::gpu;
use super::host::{contiguous, each, empty, is_host, last_is_whole, strided, values, values_mut};
use kernels::attention::processor::{Gradients, Inputs, Known, backward, forward};
use kernels::attention::{Columns, ColumnsMut};
use tch::{Device, Kind, Tensor};

/// Attention of each position to itself and those before it: queries (B, S, h, hd), keys and values
/// (B, S, kv, hd), of which h / kv query heads share one, to (B*S, h hd).
///
/// # Errors
/// libtorch refuses, for lack of memory.
pub(crate) fn attention(parts: &[Tensor; 3]) -> tch::Result<Tensor> {
    let ours = |part: &Tensor| is_host(part, Kind::Float) && last_is_whole(part);
    if !parts.iter().all(ours)
        || !heads_are_neighbours(&parts[0])
        || gpu::machine_of(&parts[0]).is_some()
    {
        return of_libtorch(parts);
    }
    let shape = Shape::of(parts)?;
    let (output, logs) = shape.forward(parts)?;
    let inputs = [&parts[0], &parts[1], &parts[2]];
    if is_recorded(&inputs) {
        let detach = |tensor: &Tensor| tensor.f_detach();
        let [q, k, v] = inputs.map(detach);
        let (parts, saved) = ([q?, k?, v?], detach(&output)?);
        record(&inputs, &[&output], move |gradients| {
            let Some(gradient) = &gradients[0] else { return Ok(vec![None, None, None]) };
            shape.backward(&parts, &saved, &logs, &contiguous(gradient)?)
        })?;
    }
    Ok(output)
}

/// Whether the query heads that share one of keys and values are one piece of each row.
fn heads_are_neighbours(q: &Tensor) -> bool {
    let (size, stride) = (q.size(), q.stride());
    matches!((&*size, &*stride), ([.., width], [.., by, _]) if width == by)
}

fn of_libtorch(parts: &[Tensor; 3]) -> tch::Result<Tensor> {
    let [q, k, v] = parts;
    masked_attention(q, [k.f_transpose(1, 2)?, v.f_transpose(1, 2)?], None)
}

/// As [`attention`], by libtorch, to keys and values (B, kv, T, hd) of which each position sees
/// what `mask` says; without one T is S, and it sees itself and those before it.
///
/// # Errors
/// libtorch refuses, for lack of memory.
pub(crate) fn masked_attention(
    q: &Tensor,
    [k, v]: [Tensor; 2],
    mask: Option<&Tensor>,
) -> tch::Result<Tensor> {
    let (batch, sequence, heads, _) = q.size4()?;
    let grouped = heads != k.size4()?.1;
    let (q, causal) = (q.f_transpose(1, 2)?, mask.is_none());
    if let Device::Cuda(_) = q.device() {
        // cuDNN takes half a second to prepare for each shape. Keys of a text that grows, whose
        // every length is new, are masked; a training's shape is always the same, and worth it.
        allow_cudnn_attention(causal && !gpu::is_checking());
    }
    // (B, heads, S, hd), scores scaled by the root of hd.
    let mixed =
        Tensor::f_scaled_dot_product_attention(&q, &k, &v, mask, 0.0, causal, None, grouped)?;
    mixed.f_transpose(1, 2)?.f_reshape([batch * sequence, -1])
}

#[derive(Debug, Clone, Copy)]
struct Shape {
    batch: usize,
    sequence: usize,
    /// Heads of keys and values.
    heads: usize,
    /// Query heads that share one of them.
    group: usize,
    width: usize,
}

impl Shape {
    fn of([q, k, _]: &[Tensor; 3]) -> tch::Result<Self> {
        let (batch, sequence, queries, width) = q.size4()?;
        let [batch, sequence, queries, width] =
            [batch, sequence, queries, width].map(|size| size as usize);
        let heads = k.size4()?.2 as usize;
        Ok(Self { batch, sequence, heads, group: queries / heads.max(1), width })
    }

    /// Values of all query heads of a token.
    fn queries(&self) -> usize {
        self.heads * self.group * self.width
    }

    /// What each sequence and head of keys reads, in this order.
    fn inputs<'a>(&self, parts: [(&'a [f32], Vec<usize>); 3]) -> impl Iterator<Item = Inputs<'a>> {
        let Self { batch, sequence, heads, group, width } = *self;
        let scale = (width as f32).sqrt().recip();
        let pairs = (0..batch).flat_map(move |b| (0..heads).map(move |head| (b, head)));
        pairs.map(move |(b, head)| {
            let part = |index: usize, group: usize| {
                let (values, strides) = &parts[index];
                let first = b * strides[0] + head * group * strides[2];
                Columns::new(&values[first..], sequence, strides[1], group * width)
            };
            Inputs { q: part(0, group), k: part(1, 1), v: part(2, 1), scale }
        })
    }

    /// o, (B*S, h hd), and l, (B, h, S).
    fn forward(&self, parts: &[Tensor; 3]) -> tch::Result<(Tensor, Vec<f32>)> {
        let Self { batch, sequence, heads, group, width } = *self;
        let mut output = empty(&[(batch * sequence) as i64, self.queries() as i64])?;
        let mut logs = vec![0.0; batch * heads * group * sequence];
        let inputs = self.inputs(parts.each_ref().map(strided));
        let own = sequence * self.queries();
        let outputs = values_mut(&mut output)
            .chunks_mut(own)
            .flat_map(|rows| ColumnsMut::split(rows, sequence, group * width));
        let work = inputs.zip(outputs).zip(logs.chunks_mut(group * sequence));
        each(work.collect(), |((inputs, output), logs)| forward(inputs, output, logs))?;
        Ok((output, logs))
    }

    /// Gradients of queries, keys and values, in one piece each.
    fn backward(
        &self,
        parts: &[Tensor; 3],
        output: &Tensor,
        logs: &[f32],
        gradient: &Tensor,
    ) -> tch::Result<Vec<Option<Tensor>>> {
        let Self { sequence, group, width, .. } = *self;
        let new = |part: &Tensor| empty(&part.size());
        let [q, k, v] = parts.each_ref().map(new);
        let mut found = [q?, k?, v?];
        let known = self.columns(values(output)).zip(self.columns(values(gradient)));
        let known = known.zip(logs.chunks(group * sequence));
        let [q, k, v] = &mut found;
        let gradients = self.split(q, group * width).zip(self.split(k, width));
        let gradients = gradients.zip(self.split(v, width));
        let inputs = self.inputs(parts.each_ref().map(strided));
        let work = inputs.zip(known).zip(gradients);
        each(work.collect(), |((inputs, ((output, gradient), logs)), ((q, k), v))| {
            backward(inputs, Known { output, logs, gradient }, Gradients { q, k, v })
        })?;
        Ok(found.into_iter().map(Some).collect())
    }

    /// The query heads of each sequence and head of keys in `rows` (B*S, h hd).
    fn columns<'a>(&self, rows: &'a [f32]) -> impl Iterator<Item = Columns<'a>> {
        let (sequence, stride, width) = (self.sequence, self.queries(), self.group * self.width);
        rows.chunks(sequence * stride).flat_map(move |rows| {
            let firsts = (0..stride).step_by(width);
            firsts.map(move |first| Columns::new(&rows[first..], sequence, stride, width))
        })
    }

    /// `tensor` (B, S, heads, hd) by sequence, `width` columns at a time.
    fn split<'a>(
        &self,
        tensor: &'a mut Tensor,
        width: usize,
    ) -> impl Iterator<Item = ColumnsMut<'a>> {
        let (batch, sequence) = (self.batch, self.sequence);
        let values = values_mut(tensor);
        let own = values.len() / batch;
        values.chunks_mut(own).flat_map(move |rows| ColumnsMut::split(rows, sequence, width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::wave;
    use tch::no_grad;

    // Goal: libtorch's values and gradients, whether keys are shared or not, where queries, keys
    // and values lie within wider rows, and with one thread and two the same bits.
    #[test]
    fn it_is_libtorch_s_attention() {
        for (batch, sequence, h, kv, width) in
            [(1, 1, 1, 1, 1), (2, 5, 4, 2, 3), (3, 40, 2, 2, 16), (2, 130, 6, 1, 20)]
        {
            let leaf = wave(&[batch * sequence, (h + 2 * kv) * width], 1.3);
            let leaf = leaf.set_requires_grad(true);
            let by = wave(&[batch * sequence, h * width], 0.31);
            let results = |attention: &dyn Fn(&[Tensor; 3]) -> tch::Result<Tensor>| {
                let rows = (&leaf * 1.0).view([batch, sequence, h + 2 * kv, width]);
                let parts = rows.split_with_sizes([h, kv, kv], 2);
                let mixed = attention(&parts.try_into().unwrap()).unwrap();
                let loss = (&mixed * &by).sum(Kind::Double);
                let gradient = Tensor::f_run_backward(&[loss], &[&leaf], false, false);
                [mixed.detach(), gradient.unwrap().remove(0)]
            };
            let theirs = results(&of_libtorch);
            let before = tch::get_num_threads();
            let [one, two] = [1, 2].map(|threads| {
                tch::set_num_threads(threads);
                results(&attention)
            });
            tch::set_num_threads(before);
            assert_eq!(one, two, "the number of threads changes nothing");
            for (ours, theirs) in one.iter().zip(&theirs) {
                let difference = (ours - theirs).abs().max().double_value(&[]);
                let size = theirs.abs().max().double_value(&[]);
                assert!(
                    difference < 2e-6 * (1.0 + size),
                    "{batch} {sequence} {h} {kv} {width}: {difference}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_remembered_without_a_gradient() {
        let parts = [0.3, 0.7, 1.1].map(|speed| wave(&[2, 5, 2, 3], speed));
        assert!(!attention(&parts).unwrap().requires_grad());
        let whole = no_grad(|| attention(&parts)).unwrap();
        assert_eq!(whole.size(), [10, 6]);
    }
}
