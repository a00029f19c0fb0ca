//! What rustls wants of keys and certificates, and OpenSSL does not: a key in a PEM block whose label says what is inside,
//! certificates of X.509 version 3.
//!
//! The operator ships PKCS#8 in a block labelled `RSA PRIVATE KEY`. OpenSSL looks inside; rustls trusts
//! the label. So we look inside, and put the label right.

use rustls::pki_types::pem::{PemObject, SectionKind};

/// The key's PEM with a label that fits, or what is wrong with it.
pub(super) fn relabelled_key(pem: &str) -> Result<String, String> {
    if pem.contains("ENCRYPTED") {
        return Err("the key is encrypted; give one without a passphrase".to_owned());
    }
    let mut key = None;
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
        let (kind, der) = section.map_err(|error| format!("not a PEM file: {error}"))?;
        if matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey) {
            key = Some((kind, der));
            break;
        }
    }
    let Some((kind, der)) = key else {
        return Err("there is no private key in it".to_owned());
    };
    let label = label_of(&der).ok_or("the private key in it is neither PKCS#8, PKCS#1 nor SEC1")?;
    let wrong = match kind {
        SectionKind::RsaPrivateKey => "RSA PRIVATE KEY",
        SectionKind::EcPrivateKey => "EC PRIVATE KEY",
        _ => "PRIVATE KEY",
    };
    // Only the key's own block: a file may hold certificates too.
    Ok(pem
        .replace(&format!("-----BEGIN {wrong}-----"), &format!("-----BEGIN {label}-----"))
        .replace(&format!("-----END {wrong}-----"), &format!("-----END {label}-----")))
}

/// What a DER-encoded private key is. All three begin with a SEQUENCE of an INTEGER (the version); next comes the
/// algorithm's identifier, a SEQUENCE, in PKCS#8; the modulus, an INTEGER, in PKCS#1; an OCTET STRING in SEC1.
fn label_of(der: &[u8]) -> Option<&'static str> {
    let (0x30, body, _) = element(der)? else { return None };
    let (0x02, _, rest) = element(body)? else { return None };
    match element(rest)?.0 {
        0x30 => Some("PRIVATE KEY"),
        0x02 => Some("RSA PRIVATE KEY"),
        0x04 => Some("EC PRIVATE KEY"),
        _ => None,
    }
}

/// Whether a DER-encoded certificate is older than version 3, which the extensions came with: `openssl x509 -req` makes such
/// where it is given none. A certificate is a SEQUENCE whose first element, a SEQUENCE too, begins with the version,
/// `[0] { INTEGER 2 }`, or where there is none, as in version 1, with the serial number.
pub(super) fn is_before_version_3(certificate: &[u8]) -> bool {
    let version = || {
        let (0x30, body, _) = element(certificate)? else { return None };
        let (0x30, body, _) = element(body)? else { return None };
        match element(body)? {
            (0xa0, version, _) => Some(element(version)?.1 != [2]),
            (tag, ..) => Some(tag == 0x02),
        }
    };
    version().unwrap_or(false)
}

/// One DER element: its tag, its content, what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if digits.len() > 4 {
            return None;
        }
        (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key of 3 elements: SEQUENCE { INTEGER 0, <tag> 01 }.
    fn pem(label: &str, tag: u8) -> String {
        use std::fmt::Write as _;
        let der = [0x30, 0x06, 0x02, 0x01, 0x00, tag, 0x01, 0x00];
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for chunk in der.chunks(3) {
            let n = chunk.iter().fold(0_u32, |n, byte| n << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for i in 0..4 {
                let c = if i > chunk.len() { '=' } else { char::from(alphabet[(n >> (18 - 6 * i)) as usize & 63]) };
                write!(text, "{c}").unwrap();
            }
        }
        format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
    }

    #[test]
    fn a_key_in_a_block_with_the_wrong_label_gets_the_right_one() {
        for (label, tag, right) in [
            ("RSA PRIVATE KEY", 0x30, "PRIVATE KEY"),
            ("EC PRIVATE KEY", 0x30, "PRIVATE KEY"),
            ("PRIVATE KEY", 0x02, "RSA PRIVATE KEY"),
            ("RSA PRIVATE KEY", 0x04, "EC PRIVATE KEY"),
            ("RSA PRIVATE KEY", 0x02, "RSA PRIVATE KEY"),
            ("PRIVATE KEY", 0x30, "PRIVATE KEY"),
        ] {
            assert_eq!(relabelled_key(&pem(label, tag)).unwrap(), pem(right, tag), "{label} {tag:#x}");
        }
    }

    #[test]
    fn a_certificate_beside_the_key_stays_as_it_is() {
        let certificate = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let both = format!("{certificate}{}", pem("RSA PRIVATE KEY", 0x30));
        assert_eq!(relabelled_key(&both).unwrap(), format!("{certificate}{}", pem("PRIVATE KEY", 0x30)));
    }

    #[test]
    fn the_version_of_a_certificate_is_read() {
        let version_3 = [0x30, 0x0a, 0x30, 0x08, 0xa0, 0x03, 0x02, 0x01, 0x02, 0x02, 0x01, 0x07];
        assert!(!is_before_version_3(&version_3));
        let version_1 = [0x30, 0x05, 0x30, 0x03, 0x02, 0x01, 0x07];
        assert!(is_before_version_3(&version_1));
        assert!(!is_before_version_3(&version_1[..4]), "what is no certificate has none");
    }

    #[test]
    fn what_is_no_usable_key_says_why() {
        assert!(relabelled_key("").unwrap_err().contains("no private key"));
        assert!(relabelled_key(&pem("CERTIFICATE", 0x30)).unwrap_err().contains("no private key"));
        assert!(relabelled_key(&pem("ENCRYPTED PRIVATE KEY", 0x30)).unwrap_err().contains("passphrase"));
        assert!(relabelled_key(&pem("PRIVATE KEY", 0x05)).unwrap_err().contains("neither"));
    }

    #[test]
    fn long_lengths_are_read_and_truncated_ones_refused() {
        // SEQUENCE (0x105 bytes) { INTEGER 0, INTEGER (0xff bytes) }
        let mut der = vec![0x30, 0x82, 0x01, 0x05, 0x02, 0x01, 0x00, 0x02, 0x81, 0xff];
        der.extend([0; 0xff]);
        assert_eq!(label_of(&der), Some("RSA PRIVATE KEY"));
        assert_eq!(label_of(&der[..der.len() - 1]), None);
        assert_eq!(label_of(&[0x30]), None);
    }
}
