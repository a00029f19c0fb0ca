//! Our lines in the build log.
//!
//! They begin like those of the operator's Ansible callback (`2026-11-25 22:40:32.123456 | `), by which its log
//! forwarding tells the time of a line.

use std::io::Write as _;

use nodepool_common::sys::clock::local_now;

/// Writes one line, or several, each with its time.
pub fn say(text: impl AsRef<str>) {
    let mut out = std::io::stdout().lock();
    // The log may be gone; the build goes on.
    let _ = out.write_all(lines(text.as_ref()).as_bytes());
    let _ = out.flush();
}

/// One line, or several, each with its time and its end.
pub fn lines(text: &str) -> String {
    let now = local_now().format("%Y-%m-%d %H:%M:%S%.6f");
    text.lines().fold(String::new(), |all, line| all + &format!("{now} | dib-ansible: {line}\n"))
}
