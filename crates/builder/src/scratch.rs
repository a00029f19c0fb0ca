//! Where temporary files go: `TMPDIR`, else `/tmp`; where nothing can be written there, as in a container whose root is
//! read-only, the home directory, which Ansible and OpenSSH need anyhow.

use std::{
    io,
    path::{Path, PathBuf},
};

use tempfile::{NamedTempFile, TempDir};

/// A directory whose name begins so. `beside`: a further place, the last one.
pub fn directory(prefix: &str, beside: Option<&Path>) -> io::Result<TempDir> {
    first_of(places(beside), |place| TempDir::with_prefix_in(prefix, place))
}

/// A file.
pub fn file() -> io::Result<NamedTempFile> {
    first_of(places(None), |place| NamedTempFile::new_in(place))
}

fn places(beside: Option<&Path>) -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let beside = beside.filter(|place| !place.as_os_str().is_empty()).map(Path::to_owned);
    let mut places = vec![std::env::temp_dir()];
    places.extend(home.into_iter().chain(beside));
    places
}

fn first_of<T>(places: Vec<PathBuf>, make: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    let mut tried = Vec::new();
    for place in places {
        match make(&place) {
            Ok(done) => return Ok(done),
            // The error names the path that was tried.
            Err(error) => tried.push(error.to_string()),
        }
    }
    Err(io::Error::other(format!(
        "there is no place for temporary files: {}. Set TMPDIR to a directory that this user may write to; in a container, \
         mount a volume at /tmp",
        tried.join("; ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_that_can_be_written_to_is_taken_and_none_is_an_error_that_tells_the_way_out() {
        let here = tempfile::tempdir().unwrap();
        let file = here.path().join("file");
        std::fs::write(&file, "").unwrap();
        let make = |place: &Path| TempDir::with_prefix_in("x-", place);
        let found = first_of(vec![here.path().join("none"), file.clone(), here.path().to_owned()], make).unwrap();
        assert_eq!(found.path().parent(), Some(here.path()));
        let error = first_of(vec![here.path().join("none"), file], make).unwrap_err().to_string();
        assert!(error.contains("/none/x-") && error.contains("/file/x-"), "{error}");
        assert!(error.contains("Set TMPDIR to a directory that this user may write to"), "{error}");
    }
}
