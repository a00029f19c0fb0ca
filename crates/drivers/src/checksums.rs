//! [`Checksums`]: what tells an image's bytes from others, for builders and for clouds.

use std::fmt::Write as _;

use md5::Md5;
use sha2::{Digest, Sha256, Sha512};

/// Of a whole file, in hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checksums {
    /// Its bytes.
    pub size: u64,
    /// As `md5sum` tells it.
    pub md5: String,
    /// As `sha256sum`.
    pub sha256: String,
    /// As `sha512sum`, where it was wanted.
    pub sha512: Option<String>,
}

impl Checksums {
    /// By the name that Glance and Python have for the algorithm; `None`: one that we do not compute.
    pub fn by(&self, algorithm: &str) -> Option<&str> {
        match algorithm {
            "md5" => Some(&self.md5),
            "sha256" => Some(&self.sha256),
            "sha512" => self.sha512.as_deref(),
            _ => None,
        }
    }
}

/// [`Checksums`] in the making.
#[derive(Clone, Debug)]
pub struct Checksumming {
    size: u64,
    md5: Md5,
    sha256: Sha256,
    sha512: Option<Sha512>,
}

impl Default for Checksumming {
    /// All of them, for a cloud, which chooses.
    fn default() -> Self {
        Self { sha512: Some(Sha512::new()), ..Self::of_build() }
    }
}

impl Checksumming {
    /// Those that a build leaves beside its files.
    pub fn of_build() -> Self {
        Self { size: 0, md5: Md5::new(), sha256: Sha256::new(), sha512: None }
    }

    /// The next bytes.
    pub fn update(&mut self, chunk: &[u8]) {
        self.size += chunk.len() as u64;
        self.md5.update(chunk);
        self.sha256.update(chunk);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(chunk);
        }
    }

    /// All bytes were there.
    pub fn finish(self) -> Checksums {
        Checksums {
            size: self.size,
            md5: hex(&self.md5.finalize()),
            sha256: hex(&self.sha256.finalize()),
            sha512: self.sha512.map(|sha512| hex(&sha512.finalize())),
        }
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::with_capacity(2 * digest.len()), |mut text, byte| {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_coreutils() {
        let mut checksums = Checksumming::default();
        checksums.update(b"nodepool");
        let checksums = checksums.finish();
        assert_eq!(checksums.size, 8);
        assert_eq!(checksums.by("md5"), Some("8b0ab6c0ec4c04693bc98cdbd59d975b"));
        assert!(checksums.by("sha512").is_some_and(|sha512| sha512.len() == 128));
        assert_eq!(checksums.by("sha3"), None);
    }
}
