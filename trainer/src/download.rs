//! Copies of tensors in the host's memory. A GPU makes them when it comes to them, in the order of
//! all that it was asked to do, so that nobody waits for it and no later step changes them.

use crate::operations::gpu::failed;
use kernels::driver::{DefaultStream, Mark};
use std::ops::Deref;
use std::time::Duration;
use tch::{Device, Kind, TchError, Tensor, no_grad};

/// The copies of one device.
#[derive(Debug)]
pub(crate) struct Downloads {
    /// Of a GPU.
    stream: Option<DefaultStream>,
}

impl Downloads {
    /// # Errors
    /// The GPU's driver refuses.
    pub(crate) fn of(device: Device) -> tch::Result<Self> {
        let stream = match device {
            Device::Cuda(index) => {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                Some(DefaultStream::of(index).map_err(failed)?)
            }
            Device::Cpu | Device::Mps | Device::Vulkan => None,
        };
        Ok(Self { stream })
    }

    /// Begins to copy `tensors`.
    ///
    /// # Errors
    /// There is no memory, or the GPU's driver refuses.
    pub(crate) fn begin<'a>(
        &self,
        tensors: impl IntoIterator<Item = &'a Tensor>,
    ) -> tch::Result<Download> {
        let copy = |tensor: &Tensor| match self.stream {
            None => {
                let mut copy = tensor.f_empty_like()?;
                copy.f_copy_(tensor).map(|()| copy)
            }
            // Into memory that the GPU reaches by itself, which libtorch keeps for the next copy.
            Some(_) => tensor.f_to_device_(Device::Cpu, tensor.kind(), true, false),
        };
        let begun = self.mark()?;
        let copies = no_grad(|| tensors.into_iter().map(copy).collect::<tch::Result<_>>())?;
        Ok(Download { copies, span: begun.zip(self.mark()?) })
    }

    fn mark(&self) -> tch::Result<Option<Mark>> {
        let mark = self.stream.as_ref().map(DefaultStream::mark).transpose();
        mark.map_err(failed)
    }
}

/// Copies that may not be there yet.
#[derive(Debug)]
pub(crate) struct Download {
    copies: Vec<Tensor>,
    /// On a GPU, before and behind them.
    span: Option<(Mark, Mark)>,
}

impl Download {
    /// Waits for the copies, in the order in which they were asked for; gives the time for which a
    /// GPU did nothing but them, too.
    ///
    /// # Errors
    /// The GPU failed at something before them.
    pub(crate) fn finish(self) -> tch::Result<(Vec<Tensor>, Duration)> {
        let time = |(begin, end): &(Mark, Mark)| end.since(begin);
        let time = self.span.as_ref().map_or(Ok(Duration::ZERO), time);
        Ok((self.copies, time.map_err(failed)?))
    }
}

/// Bytes of float32 values in the host's memory: from a file, or those of a tensor.
#[derive(Debug)]
pub struct Bytes(Memory);

#[derive(Debug)]
enum Memory {
    Own(Vec<u8>),
    Of(Tensor),
}

impl Bytes {
    /// The values of `tensor`, float32, on the host, in one piece. Nobody changes them any more.
    ///
    /// # Errors
    /// It is another tensor.
    pub(crate) fn of(tensor: Tensor) -> tch::Result<Self> {
        let fits = tensor.device() == Device::Cpu && tensor.kind() == Kind::Float;
        match fits && tensor.is_contiguous() {
            true => Ok(Self(Memory::Of(tensor))),
            false => Err(TchError::Kind(format!("no values of the host: {tensor:?}"))),
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Memory::Own(bytes))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Own(bytes) => bytes,
            // libtorch has no address for a tensor without values.
            Memory::Of(tensor) if tensor.numel() == 0 => &[],
            Memory::Of(tensor) => {
                let bytes = tensor.numel() * crate::parameters::VALUE_BYTES;
                // SAFETY: checked when it was made; it belongs to this value, which gives no way
                // to change it.
                #[expect(unsafe_code, reason = "libtorch's memory as a slice")]
                unsafe {
                    std::slice::from_raw_parts(tensor.data_ptr().cast(), bytes)
                }
            }
        }
    }
}

impl PartialEq for Bytes {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Goal: a later change of a tensor does not reach the copy that was begun before.
    #[test]
    fn a_copy_has_the_values_of_its_moment() {
        let tensor = Tensor::from_slice(&[1.5f32, -2.0]);
        let download = Downloads::of(Device::Cpu).unwrap().begin([&tensor]).unwrap();
        let _ = tensor.shallow_clone().fill_(7.0);
        let [copy] = <[Tensor; 1]>::try_from(download.finish().unwrap().0).unwrap();
        let bytes = Bytes::of(copy).unwrap();
        let expected: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(bytes, Bytes::from(expected));
        assert_ne!(bytes, Bytes::from(vec![0; 8]));
        assert!(Bytes::of(Tensor::from_slice::<f32>(&[])).unwrap().is_empty());
    }

    #[test]
    fn only_values_of_the_host_in_one_piece_are_bytes() {
        let matrix = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0]).view([2, 2]);
        assert!(Bytes::of(matrix.tr()).is_err());
        assert!(Bytes::of(Tensor::from_slice(&[1i64])).is_err());
    }
}
