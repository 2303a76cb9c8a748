//! Some columns of a matrix as a matrix of their own, whose rows then lie apart.

use std::marker::PhantomData;

/// Columns that are read.
#[derive(Debug, Clone, Copy)]
pub struct Columns<'a> {
    values: &'a [f32],
    rows: usize,
    stride: usize,
    width: usize,
}

impl<'a> Columns<'a> {
    /// `rows` rows of `width` values, `stride` values from one to the next, the first at the begin
    /// of `values`; fewer where these end before.
    pub fn new(values: &'a [f32], rows: usize, stride: usize, width: usize) -> Self {
        let whole = match values.len().checked_sub(width) {
            Some(steps) if width > 0 => steps / stride.max(1) + 1,
            _ => 0,
        };
        Self { values, rows: rows.min(whole), stride, width }
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Row `index`.
    ///
    /// # Panics
    /// There is no such row.
    #[inline(always)]
    pub(super) fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.stride..][..self.width]
    }

    /// The `width` columns from `first` on.
    pub(super) fn part(&self, first: usize, width: usize) -> Self {
        Self::new(&self.values[first.min(self.values.len())..], self.rows, self.stride, width)
    }
}

/// Columns that are written. Those of one matrix can be written at once, by several threads.
#[derive(Debug)]
pub struct ColumnsMut<'a> {
    first: *mut f32,
    rows: usize,
    stride: usize,
    width: usize,
    matrix: PhantomData<&'a mut [f32]>,
}

// SAFETY: it is a mutable borrow of its own columns.
#[expect(unsafe_code, reason = "a pointer by itself says nothing of threads")]
unsafe impl Send for ColumnsMut<'_> {}

impl<'a> ColumnsMut<'a> {
    /// The whole matrix of `rows` rows: its columns, `width` at a time. Values beyond the last
    /// whole part of each row are in none of them.
    pub fn split(
        matrix: &'a mut [f32],
        rows: usize,
        width: usize,
    ) -> impl Iterator<Item = ColumnsMut<'a>> {
        let stride = matrix.len() / rows.max(1);
        let parts = stride.checked_div(width).unwrap_or(0);
        let first = matrix.as_mut_ptr();
        (0..parts).map(move |part| Self {
            first: first.wrapping_add(part * width),
            rows,
            stride,
            width,
            matrix: PhantomData,
        })
    }

    /// Values of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Row `index`.
    ///
    /// # Panics
    /// There is no such row.
    #[inline(always)]
    #[expect(unsafe_code, reason = "rows of a matrix whose other columns are somebody else's")]
    pub(super) fn row(&mut self, index: usize) -> &mut [f32] {
        assert!(index < self.rows, "row {index} of {}", self.rows);
        // SAFETY: within the matrix, which is borrowed for 'a; no other part has these columns, and
        // this one is borrowed mutably meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(index * self.stride), self.width) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_columns_of_their_matrix() {
        let mut matrix: Vec<f32> = (0..3 * 7).map(|i| i as f32).collect();
        let read = Columns::new(&matrix, 3, 7, 7).part(2, 3);
        assert_eq!((read.rows(), read.width(), read.row(1)), (3, 3, [9.0, 10.0, 11.0].as_slice()));
        std::thread::scope(|scope| {
            for (index, mut part) in ColumnsMut::split(&mut matrix, 3, 3).enumerate() {
                assert_eq!((part.rows(), part.width()), (3, 3));
                scope.spawn(move || (0..3).for_each(|i| part.row(i).fill(-(index as f32))));
            }
        });
        for row in matrix.chunks(7) {
            assert_eq!(row[..6], [0.0, 0.0, 0.0, -1.0, -1.0, -1.0]);
            assert!(row[6] > 0.0, "in no part");
        }
    }

    #[test]
    fn a_matrix_without_values_has_no_rows() {
        assert_eq!(Columns::new(&[], 9, 3, 2).rows(), 0);
        assert_eq!(Columns::new(&[1.0], 9, 3, 2).rows(), 0);
        assert_eq!(Columns::new(&[1.0; 9], 2, 3, 2).rows(), 2);
        assert_eq!(Columns::new(&[1.0, 2.0], 9, 3, 2).rows(), 1);
        assert_eq!(ColumnsMut::split(&mut [], 0, 2).count(), 0);
        assert_eq!(ColumnsMut::split(&mut [1.0], 1, 0).count(), 0);
    }
}
