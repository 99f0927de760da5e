//! What the hub has to read in certificates (RFC 5280) itself: a device's names and the end of the
//! validity; just enough DER to find them.
//!
//! Chain, signature and validity of a device's certificate have been verified before. Anything
//! that this reader does not understand yields no name, and a device without its name is refused.

/// `2.5.29.17`, subjectAltName.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// `2.5.4.3`, commonName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_ID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT`, the version of a certificate.
const VERSION: u8 = 0xa0;
/// `[3] EXPLICIT`, its extensions.
const EXTENSIONS: u8 = 0xa3;
/// `[2]`, dNSName of a GeneralName.
const DNS_NAME: u8 = 0x82;
/// `[6]`, uniformResourceIdentifier of a GeneralName.
const URI: u8 = 0x86;

/// Reads one element after the other.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The next element: tag and content.
    fn next(&mut self) -> Option<(u8, Der<'a>)> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let length = if first < 0x80 {
            usize::from(first)
        } else {
            // Three bytes of length are more than a TLS handshake can carry.
            let count = usize::from(first & 0x7f);
            if !(1..=3).contains(&count) || rest.len() < count {
                return None;
            }
            let (bytes, after) = rest.split_at(count);
            rest = after;
            bytes.iter().fold(0, |n, &b| n << 8 | usize::from(b))
        };
        if rest.len() < length {
            return None;
        }
        let (content, after) = rest.split_at(length);
        self.0 = after;
        Some((tag, Der(content)))
    }

    /// The content of the next element, which has to have this tag.
    fn expect(&mut self, tag: u8) -> Option<Der<'a>> {
        self.next()
            .filter(|(found, _)| *found == tag)
            .map(|(_, content)| content)
    }
}

/// The end of a certificate's validity: Unix seconds. `None`: it cannot be read.
#[must_use]
pub fn not_after(certificate: &[u8]) -> Option<i64> {
    let mut fields = body(certificate)?;
    fields.next()?; // signature algorithm
    fields.next()?; // issuer
    let mut validity = fields.expect(SEQUENCE)?;
    validity.next()?; // the beginning
    match validity.next()? {
        (UTC_TIME, text) => {
            // RFC 5280 §4.1.2.5.1: two digits of the year, 1950 to 2049.
            let year = digits(text.0.get(..2)?)?;
            let century = if year >= 50 { 1900 } else { 2000 };
            unix_seconds(century + year, text.0.get(2..)?)
        }
        (GENERALIZED_TIME, text) => unix_seconds(digits(text.0.get(..4)?)?, text.0.get(4..)?),
        _ => None,
    }
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + i64::from(byte - b'0'))
    })
}

/// The moment of a year and `MMDDHHMMSSZ`, the only form that certificates may have.
fn unix_seconds(year: i64, rest: &[u8]) -> Option<i64> {
    if rest.len() != 11 || rest[10] != b'Z' {
        return None;
    }
    let part = |at: usize| digits(&rest[at..at + 2]);
    let (month, day) = (part(0)?, part(2)?);
    let (hour, minute, second) = (part(4)?, part(6)?, part(8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970-01-01, with years that begin in March, so that the leap day is the last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (month * 153 + 2) / 5
        + day
        - 1
        - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// The names that a certificate gives its holder: DNS names and URIs of the subject alternative
/// name and, if it has no such extension, the common names of the subject (RFC 6125 §6.4.4).
#[must_use]
pub fn names(certificate: &[u8]) -> Vec<&str> {
    read(certificate).unwrap_or_default()
}

/// The fields behind the serial number.
fn body(certificate: &[u8]) -> Option<Der<'_>> {
    let mut fields = Der(certificate).expect(SEQUENCE)?.expect(SEQUENCE)?;
    let (tag, _) = fields.next()?; // version, or the serial number of a version 1 certificate
    if tag == VERSION {
        fields.next()?;
    }
    Some(fields)
}

fn read(certificate: &[u8]) -> Option<Vec<&str>> {
    let mut fields = body(certificate)?;
    fields.next()?; // signature algorithm
    fields.next()?; // issuer
    fields.next()?; // validity
    let subject = fields.expect(SEQUENCE)?;
    fields.next()?; // public key
    while let Some((tag, mut content)) = fields.next() {
        if tag == EXTENSIONS {
            let mut extensions = content.expect(SEQUENCE)?;
            while let Some(mut extension) = extensions.expect(SEQUENCE) {
                if extension.expect(OBJECT_ID)?.0 == SUBJECT_ALT_NAME {
                    return alternative_names(extension);
                }
            }
        }
    }
    common_names(subject)
}

fn alternative_names(mut extension: Der<'_>) -> Option<Vec<&str>> {
    let (mut tag, mut value) = extension.next()?;
    if tag == BOOLEAN {
        (tag, value) = extension.next()?;
    }
    if tag != OCTET_STRING {
        return None;
    }
    let mut names = value.expect(SEQUENCE)?;
    let mut found = Vec::new();
    while let Some((tag, name)) = names.next() {
        if matches!(tag, DNS_NAME | URI) {
            found.push(std::str::from_utf8(name.0).ok()?);
        }
    }
    Some(found)
}

fn common_names(mut subject: Der<'_>) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    while let Some(mut relative) = subject.expect(SET) {
        while let Some(mut attribute) = relative.expect(SEQUENCE) {
            if attribute.expect(OBJECT_ID)?.0 == COMMON_NAME
                && let Some((UTF8_STRING | PRINTABLE_STRING, name)) = attribute.next()
            {
                found.push(std::str::from_utf8(name.0).ok()?);
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    fn certificate(common_name: &str, alternative: &[SanType]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Farm");
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        params.subject_alt_names = alternative.to_vec();
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_common_name_counts_when_there_is_no_alternative_name() {
        assert_eq!(names(&certificate("barn-1", &[])), ["barn-1"]);
    }

    #[test]
    fn alternative_names_stand_before_the_common_name() {
        let der = certificate(
            "other",
            &[
                SanType::DnsName("barn-1".try_into().unwrap()),
                SanType::IpAddress("127.0.0.1".parse().unwrap()),
                SanType::URI("urn:barn".try_into().unwrap()),
            ],
        );
        assert_eq!(names(&der), ["barn-1", "urn:barn"]);
    }

    #[test]
    fn the_end_of_the_validity_is_read_in_both_its_forms() {
        for (year, month, day, seconds) in [
            (1999, 12, 31, 946_598_400),
            (2024, 2, 29, 1_709_164_800),
            (2030, 1, 1, 1_893_456_000),
            (2049, 12, 31, 2_524_521_600),
            (2050, 1, 1, 2_524_608_000),
            (4000, 3, 1, 64_065_772_800),
        ] {
            let mut params = CertificateParams::default();
            params.not_after = rcgen::date_time_ymd(year, month, day);
            let key = KeyPair::generate().unwrap();
            let der = params.self_signed(&key).unwrap().der().to_vec();
            assert_eq!(not_after(&der), Some(seconds), "{year}");
        }
        assert_eq!(not_after(b""), None);
        for text in [
            &b""[..],
            b"0101000000",
            b"0101000000+",
            b"1301000000Z",
            b"01x1000000Z",
        ] {
            assert_eq!(unix_seconds(2030, text), None);
        }
    }

    #[test]
    fn no_cut_and_no_flipped_byte_makes_the_reader_panic() {
        let der = certificate("cn", &[SanType::DnsName("barn-1".try_into().unwrap())]);
        for end in 0..der.len() {
            _ = (names(&der[..end]), not_after(&der[..end]));
        }
        for at in 0..der.len() {
            for bit in 0..8 {
                let mut broken = der.clone();
                broken[at] ^= 1 << bit;
                _ = (names(&broken), not_after(&broken));
            }
        }
    }
}
