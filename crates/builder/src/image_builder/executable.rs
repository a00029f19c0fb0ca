//! Where our own executable is, for processes that are it under another name.

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
    path::PathBuf,
};

/// Our own executable. One that was replaced while it runs is followed to what has taken its place.
pub fn executable() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let replaced = path.as_os_str().as_bytes().strip_suffix(b" (deleted)");
    let replaced = replaced.map(|path| PathBuf::from(OsString::from_vec(path.to_vec())));
    Ok(replaced.filter(|_| !path.exists()).unwrap_or(path))
}
