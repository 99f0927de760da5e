//! The names in a client certificate (RFC 5280): just enough DER to find them.
//!
//! The certificate's chain, signature and validity have been verified before. Anything that this
//! reader does not understand yields no name, and a device without its name is refused.

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

/// The names that a certificate gives its holder: DNS names and URIs of the subject alternative
/// name and, if it has no such extension, the common names of the subject (RFC 6125 §6.4.4).
pub(super) fn names(certificate: &[u8]) -> Vec<&str> {
    read(certificate).unwrap_or_default()
}

fn read(certificate: &[u8]) -> Option<Vec<&str>> {
    let mut fields = Der(certificate).expect(SEQUENCE)?.expect(SEQUENCE)?;
    let (tag, _) = fields.next()?; // version, or the serial number of a version 1 certificate
    if tag == VERSION {
        fields.next()?;
    }
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
    fn no_cut_and_no_flipped_byte_makes_the_reader_panic() {
        let der = certificate("cn", &[SanType::DnsName("barn-1".try_into().unwrap())]);
        for end in 0..der.len() {
            names(&der[..end]);
        }
        for at in 0..der.len() {
            for bit in 0..8 {
                let mut broken = der.clone();
                broken[at] ^= 1 << bit;
                names(&broken);
            }
        }
    }
}
