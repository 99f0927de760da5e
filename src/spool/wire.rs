//! Bytes in and out: little-endian integers, short texts, and files sealed with a checksum.

use std::sync::Arc;

/// Why stored bytes could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Damage {
    /// The bytes end before what they announce.
    #[error("cut short")]
    Short,
    /// A checksum, a magic number or a text is wrong.
    #[error("checksum or content wrong")]
    Wrong,
}

/// Appends values to a buffer.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }

    /// A count or length; everything the spool stores in one piece is far below 4 GiB.
    pub(super) fn len(&mut self, value: usize) {
        self.u32(u32::try_from(value).expect("pieces of the spool stay below 4 GiB"));
    }

    pub(super) fn option(&mut self, value: Option<u64>) {
        self.u8(value.is_some().into());
        self.u64(value.unwrap_or(0));
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.len(value.len());
        self.0.extend_from_slice(value);
    }
}

/// Takes values from a buffer.
#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], Damage> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Damage::Short)?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Damage> {
        self.take(N)?.try_into().map_err(|_| Damage::Short)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Damage> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, Damage> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Damage> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn f64(&mut self) -> Result<f64, Damage> {
        Ok(f64::from_bits(self.u64()?))
    }

    pub(super) fn len(&mut self) -> Result<usize, Damage> {
        usize::try_from(self.u32()?).map_err(|_| Damage::Wrong)
    }

    pub(super) fn option(&mut self) -> Result<Option<u64>, Damage> {
        let some = self.u8()? != 0;
        let value = self.u64()?;
        Ok(some.then_some(value))
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Damage> {
        let len = self.len()?;
        self.take(len)
    }

    pub(super) fn text(&mut self) -> Result<Arc<str>, Damage> {
        let text = std::str::from_utf8(self.bytes()?).map_err(|_| Damage::Wrong)?;
        Ok(text.into())
    }
}

/// Magic (which carries the version), length, CRC32, content: the form of every small file.
pub(super) fn seal(magic: [u8; 4], content: &[u8]) -> Vec<u8> {
    let mut writer = Writer(Vec::with_capacity(content.len() + 12));
    writer.0.extend_from_slice(&magic);
    writer.len(content.len());
    writer.u32(crc32fast::hash(content));
    writer.0.extend_from_slice(content);
    writer.0
}

/// The content of [`seal`]ed bytes.
///
/// # Errors
/// [`Damage`] when anything is missing, left over or changed.
pub(super) fn unseal(magic: [u8; 4], bytes: &[u8]) -> Result<&[u8], Damage> {
    let mut reader = Reader(bytes);
    if reader.array::<4>()? != magic {
        return Err(Damage::Wrong);
    }
    let len = reader.len()?;
    let crc = reader.u32()?;
    let content = reader.take(len)?;
    if !reader.0.is_empty() || crc32fast::hash(content) != crc {
        return Err(Damage::Wrong);
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sealed_file_opens_only_if_no_bit_has_changed(
            content in proptest::collection::vec(any::<u8>(), 0..200), at in any::<usize>(), bit in 0..8u8,
        ) {
            let mut sealed = seal(*b"test", &content);
            prop_assert_eq!(unseal(*b"test", &sealed).unwrap(), &content[..]);
            let at = at % sealed.len();
            sealed[at] ^= 1 << bit;
            prop_assert!(unseal(*b"test", &sealed).is_err());
            sealed[at] ^= 1 << bit;
            sealed.truncate(at);
            prop_assert!(unseal(*b"test", &sealed).is_err());
        }
    }
}
