//! Buffers that a payload can be appended to: a packet that is put together in place has its header
//! in the same one.

use std::io;

use bytes::BytesMut;

/// A growing buffer of bytes.
pub trait Out {
    /// Bytes in it.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for so many more bytes.
    fn reserve(&mut self, more: usize);

    /// Appends.
    fn put(&mut self, bytes: &[u8]);

    /// Appends what stands from one place to before another.
    fn again(&mut self, from: usize, to: usize);

    /// Takes back what was appended beyond this length.
    fn truncate(&mut self, len: usize);
}

impl Out for Vec<u8> {
    #[inline]
    fn len(&self) -> usize {
        self.len()
    }

    #[inline]
    fn reserve(&mut self, more: usize) {
        self.reserve(more);
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn again(&mut self, from: usize, to: usize) {
        self.extend_from_within(from..to);
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        self.truncate(len);
    }
}

impl Out for BytesMut {
    #[inline]
    fn len(&self) -> usize {
        self.len()
    }

    #[inline]
    fn reserve(&mut self, more: usize) {
        self.reserve(more);
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    #[inline]
    fn again(&mut self, from: usize, to: usize) {
        let len = self.len();
        self.resize(len + (to - from), 0);
        self.copy_within(from..to, len);
    }

    #[inline]
    fn truncate(&mut self, len: usize) {
        self.truncate(len);
    }
}

/// Lets serde write into a buffer.
#[derive(Debug)]
pub(super) struct Writer<'o, O>(pub(super) &'o mut O);

impl<O: Out> io::Write for Writer<'_, O> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.put(bytes);
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.put(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
