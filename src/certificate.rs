//! Until when certificates are valid. Reads that and nothing else of them: whether they are to be trusted is for those who
//! connect with them.

use chrono::{DateTime, NaiveDateTime, Utc};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// Why it is not known until when a file's certificates are valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCertificate {
    /// There is none.
    #[error("it holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)")]
    None,
    /// One is damaged.
    #[error("certificate {number} in it cannot be read")]
    Unreadable {
        /// Which one, from 1.
        number: usize,
    },
}

/// When the certificates of a PEM file end, in the order in which they stand there: one at least.
///
/// # Errors
/// When there is none, or one cannot be read.
pub fn ends(pem: &[u8]) -> Result<Vec<DateTime<Utc>>, BadCertificate> {
    let mut ends = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let end = certificate.ok().and_then(|certificate| not_after(&certificate));
        ends.push(end.ok_or(BadCertificate::Unreadable { number: ends.len() + 1 })?);
    }
    if ends.is_empty() { Err(BadCertificate::None) } else { Ok(ends) }
}

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// The end of validity: RFC 5280, section 4.1, as far as it stands there.
fn not_after(certificate: &[u8]) -> Option<DateTime<Utc>> {
    let mut outermost = Der(certificate);
    let mut signed = Der(Der(outermost.expect(SEQUENCE)?).expect(SEQUENCE)?);
    if signed.0.first() == Some(&VERSION) {
        signed.expect(VERSION)?;
    }
    let _serial_number = signed.expect(INTEGER)?;
    let _signature = signed.expect(SEQUENCE)?;
    let _issuer = signed.expect(SEQUENCE)?;
    let mut validity = Der(signed.expect(SEQUENCE)?);
    let _not_before = validity.next()?;
    let (tag, end) = validity.next()?;
    time(tag, std::str::from_utf8(end).ok()?)
}

/// A time as certificates have it: in UTC, to the second.
fn time(tag: u8, text: &str) -> Option<DateTime<Utc>> {
    let digits = text.strip_suffix('Z').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let whole = match (tag, digits.len()) {
        (UTC_TIME, 12) => format!("{}{digits}", if digits >= "50" { "19" } else { "20" }),
        (GENERALIZED_TIME, 14) => digits.to_owned(),
        _ => return None,
    };
    Some(NaiveDateTime::parse_from_str(&whole, "%Y%m%d%H%M%S").ok()?.and_utc())
}

/// Values in the distinguished encoding, one after the other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next value, which must be of this kind.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }

    /// The next value: its kind and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let [tag, first, rest @ ..] = self.0 else { return None };
        // From 128 on it says how many bytes of length follow.
        let (length, rest) = match first.checked_sub(0x80) {
            None => (usize::from(*first), rest),
            Some(bytes @ 1..=4) => {
                let (length, rest) = rest.split_at_checked(usize::from(bytes))?;
                (length.iter().try_fold(0_usize, |sum, byte| sum.checked_mul(256)?.checked_add((*byte).into()))?, rest)
            }
            Some(_) => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }
}

#[cfg(test)]
mod fuzz;

/// A certificate for tests.
#[cfg(test)]
pub(crate) const UNTIL_2061: &str = "\
-----BEGIN CERTIFICATE-----
MIIBBjCBrgIBAjAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARsYXRlMCAXDTI0MDEw
MTAwMDAwMFoYDzIwNjEwMjAzMDQwNTA2WjAPMQ0wCwYDVQQDDARsYXRlMFkwEwYH
KoZIzj0CAQYIKoZIzj0DAQcDQgAEe2UJHrF9Ifnu1rWW/6n3LEZxNE648ILw/JFd
f7jB+j8yYvQwsb1+SwF0iiYfHi7U30md9ZaU9+rUB6GaESGzzDAKBggqhkjOPQQD
AgNHADBEAiBsob6bwEBOQTO77hp0oGeBuhskCBoKbGANZlDImApJdgIgGAxS2o/5
+7nZfxG96jZst4xyplb7prWQKrqziSYjYxw=
-----END CERTIFICATE-----
";

#[cfg(test)]
mod tests {
    use super::*;

    /// Made with `openssl ca -startdate … -enddate …`.
    const UNTIL_2025: &str = include_str!("certificate/ended.pem");

    fn told(pem: &str) -> Result<Vec<String>, BadCertificate> {
        ends(pem.as_bytes()).map(|ends| ends.iter().map(DateTime::to_rfc3339).collect())
    }

    #[test]
    fn the_certificates_of_a_file_are_read_in_their_order_in_either_form_of_time() {
        let both = format!("# a remark\n{UNTIL_2061}\n{UNTIL_2025}");
        assert_eq!(
            told(&both),
            Ok(vec!["2061-02-03T04:05:06+00:00".to_owned(), "2025-02-03T04:05:06+00:00".to_owned()])
        );
    }

    #[test]
    fn what_is_no_certificate_is_said_to_be_none() {
        assert_eq!(told(""), Err(BadCertificate::None));
        let key = UNTIL_2025.replace("CERTIFICATE", "PRIVATE KEY");
        assert_eq!(told(&key), Err(BadCertificate::None));
        let damaged = UNTIL_2025.replace("MIIBCDCB", "MIIBCDCA");
        assert_eq!(told(&format!("{UNTIL_2061}{damaged}")), Err(BadCertificate::Unreadable { number: 2 }));
    }
}
