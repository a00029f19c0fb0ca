//! The formats of images.

use super::suggest::suggest;

/// The formats that disk-image-create makes (diskimage-builder 3: `disk-image-create -h`), and those that clouds know (Glance:
/// `disk_formats`, `container_formats`).
pub const FORMATS: [&str; 18] = [
    "qcow2", "raw", "vhd", "vhdx", "vmdk", "vdi", "ploop", "iso", "ami", "ari", "aki", "ova", "tar", "tgz", "squashfs",
    "docker", "aci", "ext4",
];

/// The format that was probably meant by a text; the text itself where it is like none.
pub fn meant_format(format: &str) -> &str {
    suggest(format, FORMATS.into_iter()).unwrap_or(format)
}

/// The format that was probably meant by a text.
pub fn known(format: &str) -> Option<&'static str> {
    suggest(format, FORMATS.into_iter())
}
