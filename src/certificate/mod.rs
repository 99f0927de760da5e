//! What the hub has to read in certificates and revocation lists (RFC 5280) itself: a device's
//! names, whether they may count, and the ends of validities; just enough DER to find them.
//!
//! Chain, signature and validity of a device's certificate have been verified before. Anything
//! that this reader does not understand yields no name, and a device without its name is refused.

mod der;
mod time;

use self::der::Der;

/// `2.5.29.17`, subjectAltName.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// `2.5.29.19`, basicConstraints.
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
/// `2.5.29.30`, nameConstraints.
const NAME_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x1e];
/// `2.5.4.3`, commonName.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// `1.2.840.113549.1.1.1`, rsaEncryption.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// `[0] EXPLICIT`, the version of a certificate.
const VERSION: u8 = 0xa0;
/// `[3] EXPLICIT`, its extensions.
const EXTENSIONS: u8 = 0xa3;
/// `[2]`, dNSName of a GeneralName.
const DNS_NAME: u8 = 0x82;

/// The parts of a certificate that decide about something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// 1 to 3.
    pub version: u8,
    /// Who signed it, as it stands in the certificate.
    pub issuer: &'a [u8],
    /// Whose it is, in the same form.
    pub subject: &'a [u8],
    /// The end of its validity: Unix seconds.
    pub not_after: i64,
    /// Bits of its RSA key; `None`: a key of another kind.
    pub rsa_bits: Option<usize>,
    /// Whether it may sign others.
    pub is_authority: bool,
    /// Whether it limits the names that certificates below it may have.
    pub limits_names: bool,
    /// DNS names of its subject alternative name; `None`: it has no such extension.
    pub alternative: Option<Vec<&'a str>>,
    /// Common names of its subject.
    pub common: Vec<&'a str>,
}

impl<'a> Certificate<'a> {
    /// Reads a certificate. `None`: it cannot be read.
    #[must_use]
    pub fn read(certificate: &'a [u8]) -> Option<Self> {
        let mut fields = Der(certificate).expect(SEQUENCE)?.expect(SEQUENCE)?;
        let mut version = 1;
        let (tag, mut first) = fields.next()?;
        if tag == VERSION {
            version = first.expect(INTEGER)?.0.last()?.checked_add(1)?;
            fields.next()?; // serial number
        }
        fields.next()?; // signature algorithm
        let issuer = fields.expect(SEQUENCE)?;
        let mut validity = fields.expect(SEQUENCE)?;
        validity.next()?; // the beginning
        let (tag, end) = validity.next()?;
        let subject = fields.expect(SEQUENCE)?;
        let mut read = Self {
            version,
            issuer: issuer.0,
            subject: subject.0,
            not_after: time::read(tag, end)?,
            rsa_bits: rsa_bits(fields.expect(SEQUENCE)?),
            is_authority: false,
            limits_names: false,
            alternative: None,
            common: common_names(subject)?,
        };
        while let Some((tag, mut content)) = fields.next() {
            if tag == EXTENSIONS {
                let mut extensions = content.expect(SEQUENCE)?;
                while let Some(extension) = extensions.expect(SEQUENCE) {
                    read.extension(extension)?;
                }
            }
        }
        Some(read)
    }

    fn extension(&mut self, mut extension: Der<'a>) -> Option<()> {
        let id = extension.expect(OBJECT_ID)?.0;
        let (mut tag, mut value) = extension.next()?;
        if tag == BOOLEAN {
            (tag, value) = extension.next()?;
        }
        if tag != OCTET_STRING {
            return None;
        }
        match id {
            SUBJECT_ALT_NAME => self.alternative = Some(dns_names(value)?),
            NAME_CONSTRAINTS => self.limits_names = true,
            BASIC_CONSTRAINTS => {
                let first = value.expect(SEQUENCE)?.next();
                let set = |(tag, value): (u8, Der<'_>)| tag == BOOLEAN && value.0 != [0];
                self.is_authority = first.is_some_and(set);
            }
            _ => {}
        }
        Some(())
    }

    /// The names that it gives its holder: the DNS names of the subject alternative name. The
    /// common names count only when there is no such extension (RFC 6125 §6.4.4), and never below
    /// an authority that may give some names only: nobody has held them against its limits.
    #[must_use]
    pub fn names(&self, limited: bool) -> &[&'a str] {
        match &self.alternative {
            Some(names) => names,
            None if limited => &[],
            None => &self.common,
        }
    }
}

fn rsa_bits(mut key: Der<'_>) -> Option<usize> {
    if key.expect(SEQUENCE)?.expect(OBJECT_ID)?.0 != RSA {
        return None;
    }
    let bits = key.expect(BIT_STRING)?;
    // Before the content stands the number of bits that are left over in its last byte: none.
    let modulus = Der(bits.0.get(1..)?).expect(SEQUENCE)?.expect(INTEGER)?;
    let zeros = modulus.0.iter().take_while(|byte| **byte == 0).count();
    let first = modulus.0.get(zeros)?;
    Some(8 * (modulus.0.len() - zeros) - first.leading_zeros() as usize)
}

fn dns_names(mut value: Der<'_>) -> Option<Vec<&str>> {
    let mut names = value.expect(SEQUENCE)?;
    let mut found = Vec::new();
    while let Some((tag, name)) = names.next() {
        if tag == DNS_NAME {
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

/// The end of a certificate's validity: Unix seconds. `None`: it cannot be read.
#[must_use]
pub fn not_after(certificate: &[u8]) -> Option<i64> {
    Certificate::read(certificate).map(|read| read.not_after)
}

/// When a revocation list should have been replaced by a newer one (RFC 5280 §5.1.2.5): Unix
/// seconds. `None`: it does not say, or cannot be read.
#[must_use]
pub fn next_update(list: &[u8]) -> Option<i64> {
    let mut fields = Der(list).expect(SEQUENCE)?.expect(SEQUENCE)?;
    let mut before = 0;
    while let Some((tag, content)) = fields.next() {
        if time::is_time(tag) {
            before += 1;
            if before == 2 {
                return time::read(tag, content);
            }
        }
    }
    None
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

    fn names(der: &[u8]) -> Vec<String> {
        let read = Certificate::read(der).unwrap();
        read.names(false).iter().map(ToString::to_string).collect()
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
        assert_eq!(names(&der), ["barn-1"]);
    }

    #[test]
    fn a_common_name_does_not_count_beside_any_alternative_name_nor_below_limits() {
        let uri = certificate("barn-1", &[SanType::URI("urn:barn-2".try_into().unwrap())]);
        assert!(names(&uri).is_empty());
        let der = certificate("barn-1", &[]);
        assert!(Certificate::read(&der).unwrap().names(true).is_empty());
    }

    #[test]
    fn what_an_authority_may_do_is_read() {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.name_constraints = Some(rcgen::NameConstraints {
            permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("site-a".into())],
            excluded_subtrees: Vec::new(),
        });
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        let read = Certificate::read(&der).unwrap();
        assert!(read.is_authority && read.limits_names);
        assert_eq!((read.version, read.rsa_bits), (3, None));
        assert_eq!(read.issuer, read.subject);
        let der = certificate("barn-1", &[]);
        let read = Certificate::read(&der).unwrap();
        assert!(!read.is_authority && !read.limits_names);
    }

    #[test]
    fn the_next_update_of_a_revocation_list_is_read() {
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
        let issuer = rcgen::CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap());
        let list = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2030, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let der = list.signed_by(&issuer.unwrap()).unwrap().der().to_vec();
        assert_eq!(next_update(&der), Some(1_893_456_000));
        for end in 0..der.len() {
            _ = next_update(&der[..end]);
        }
        assert_eq!(next_update(b""), None);
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
            assert_eq!(time::unix_seconds(2030, text), None);
        }
    }

    #[test]
    fn no_cut_and_no_flipped_byte_makes_the_reader_panic() {
        let der = certificate("cn", &[SanType::DnsName("barn-1".try_into().unwrap())]);
        for end in 0..der.len() {
            _ = Certificate::read(&der[..end]);
        }
        for at in 0..der.len() {
            for bit in 0..8 {
                let mut broken = der.clone();
                broken[at] ^= 1 << bit;
                _ = (Certificate::read(&broken), next_update(&broken));
            }
        }
    }
}
