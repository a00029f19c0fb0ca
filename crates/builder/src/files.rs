//! What is in images-dir: `<image>-<build id>.<format>` with `.md5` and `.sha256` beside it, and the manifest
//! `<image>-<build id>.d` (`nodepool 11.0.0: builder.py DibImageFile, CleanupWorker`).
//!
//! Only names with a build's id, 32 hexadecimal or 10 decimal digits, are taken for ours; upstream takes any hexadecimal
//! word. disk-image-create leaves checksums; where a build leaves none (Ansible's does not) they are computed here, both
//! in one reading, so that every upload can be checked.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use nodepool_common::{
    model::{BuildId, ImageName},
    sys::entropy::Entropy,
};
use nodepool_drivers::Checksumming;
use tokio_util::sync::CancellationToken;

use crate::plan::LocalFiles;

/// Bytes read at a time.
const CHUNK: usize = 256 * 1024;
/// What stands beside an image's file and is no format.
const BESIDE: [&str; 3] = ["md5", "sha256", "d"];

/// The path of a build's files without their extension.
pub fn base(images_dir: &Path, image: &ImageName, build: &BuildId) -> PathBuf {
    images_dir.join(format!("{image}-{build}"))
}

/// A build's file of a format.
pub fn image_file(images_dir: &Path, image: &ImageName, build: &BuildId, format: &str) -> PathBuf {
    with_suffix(&base(images_dir, image, build), format)
}

/// The name of the image of which a file, named without its extension, is a build's: `<image>-<build id>`, where any
/// hexadecimal word is an id, as upstream has it.
pub fn image_of(stem: &str) -> Option<&str> {
    let (image, build) = stem.rsplit_once('-')?;
    (!build.is_empty() && build.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(image)
}

/// `path.suffix`, whatever dots the path has.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// The formats of every build of which there is a file, be it only a checksum or a manifest.
pub fn scan(images_dir: &Path) -> io::Result<LocalFiles> {
    let mut found = LocalFiles::new();
    for entry in fs::read_dir(images_dir)? {
        let name = entry?.file_name();
        if let Some((image, build, suffix)) = name.to_str().and_then(parse) {
            let formats: &mut BTreeSet<String> = found.entry((image, build)).or_default();
            if !suffix.contains('.') && !BESIDE.contains(&suffix) {
                formats.insert(suffix.to_owned());
            }
        }
    }
    Ok(found)
}

/// Image, build and all extensions of a file's name.
fn parse(name: &str) -> Option<(ImageName, BuildId, &str)> {
    let is_hex = |id: &str| id.len() == 32 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_old = |id: &str| id.len() == 10 && id.bytes().all(|byte| byte.is_ascii_digit());
    // An image's name may have dots and dashes, an id neither. What follows a build's id may look like an old one.
    let ids = |is_id: &dyn Fn(&str) -> bool| {
        name.rmatch_indices('-').find_map(|(at, _)| {
            let (id, suffix) = name[at + 1..].split_once('.')?;
            (is_id(id) && at > 0 && !suffix.is_empty()).then(|| (name[..at].into(), id.into(), suffix))
        })
    };
    ids(&is_hex).or_else(|| ids(&is_old))
}

/// Deletes a build's files: all, with checksums and manifest, or those of some formats with their checksums. Returns what
/// was deleted; what is gone already is no error.
pub fn delete(
    images_dir: &Path,
    image: &ImageName,
    build: &BuildId,
    formats: Option<&[String]>,
) -> io::Result<Vec<PathBuf>> {
    let mut deleted = Vec::new();
    for entry in fs::read_dir(images_dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((of, id, suffix)) = name.to_str().and_then(parse) else { continue };
        let format = suffix.split('.').next().unwrap_or_default();
        if of != *image || id != *build || formats.is_some_and(|formats| !formats.iter().any(|one| one == format)) {
            continue;
        }
        let path = entry.path();
        let gone = if entry.file_type()?.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        match gone {
            Ok(()) => deleted.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

/// The bytes that a file takes on its disk: images are sparse.
pub fn allocated(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}

/// The bytes that a user without privileges can still write to the file system of a path.
pub fn free_space(path: &Path) -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)?;
    // Of types that differ between platforms.
    #[allow(clippy::unnecessary_cast)]
    Ok(stat.blocks_available() as u64 * stat.fragment_size() as u64)
}

/// MD5 and SHA-256 that stand beside a file, in hexadecimal digits (upstream reads the first 32 and 64 characters).
pub fn checksums(file: &Path) -> (Option<String>, Option<String>) {
    let read = |suffix: &str, digits: usize| {
        let text = fs::read_to_string(with_suffix(file, suffix)).ok()?;
        let digest = text.get(..digits)?.to_ascii_lowercase();
        digest.bytes().all(|byte| byte.is_ascii_hexdigit()).then_some(digest)
    };
    (read("md5", 32), read("sha256", 64))
}

/// Computes what of the checksums is missing beside a file, in one reading, and writes it there as `md5sum` does. Gives
/// up, without a trace, when `stop` is cancelled.
pub fn add_checksums(file: &Path, stop: &CancellationToken) -> io::Result<()> {
    let (md5, sha256) = checksums(file);
    if md5.is_some() && sha256.is_some() {
        return Ok(());
    }
    let mut input = fs::File::open(file)?;
    let mut sums = Checksumming::of_build();
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = input.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        if stop.is_cancelled() {
            return Ok(());
        }
        sums.update(&chunk[..read]);
    }
    let sums = sums.finish();
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let missing = [("md5", md5, sums.md5), ("sha256", sha256, sums.sha256)];
    for (suffix, _, digest) in missing.into_iter().filter(|(_, known, _)| known.is_none()) {
        fs::write(with_suffix(file, suffix), format!("{digest}  {name}\n"))?;
    }
    Ok(())
}

/// This builder's id, as it stands in `builder_id.txt` of images-dir; made at the first start. It outlives the process, so
/// that a builder that comes back knows its own builds (`nodepool 11.0.0: builder.py _getBuilderID`).
pub fn builder_id(images_dir: &Path, entropy: &Entropy) -> io::Result<String> {
    let path = images_dir.join("builder_id.txt");
    match fs::read_to_string(&path) {
        Ok(id) if !id.trim().is_empty() => Ok(id),
        // Empty: what a full disk leaves of a first start.
        Ok(_) => write_id(&path, entropy),
        Err(error) if error.kind() == io::ErrorKind::NotFound => write_id(&path, entropy),
        Err(error) => Err(error),
    }
}

/// Keeps other builders out of images-dir for as long as it is kept; the system gives it up with the process.
pub fn claim(images_dir: &Path) -> io::Result<Option<Flock<fs::File>>> {
    let id = fs::File::open(images_dir.join("builder_id.txt"))?;
    match Flock::lock(id, FlockArg::LockExclusiveNonblock) {
        Ok(claim) => Ok(Some(claim)),
        Err((_, Errno::EWOULDBLOCK)) => Err(io::Error::other("another builder is at work in it")),
        // A file system without locks.
        Err(_) => Ok(None),
    }
}

fn write_id(path: &Path, entropy: &Entropy) -> io::Result<String> {
    let id = entropy.uuid().to_string();
    let aside = path.with_extension("txt.new");
    fs::write(&aside, &id)?;
    fs::rename(&aside, path)?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn dir_with(names: &[String]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            if name.strip_suffix(".d").is_some() {
                fs::create_dir(dir.path().join(name)).unwrap();
                fs::write(dir.path().join(name).join("dib-manifest"), "x").unwrap();
            } else {
                fs::write(dir.path().join(name), "x").unwrap();
            }
        }
        dir
    }

    fn left(dir: &tempfile::TempDir) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_build_is_found_by_any_of_its_files_and_only_images_are_formats() {
        let names = [
            "a.b-c-ID.qcow2",
            "a.b-c-ID.qcow2.md5",
            "a.b-c-ID.d",
            "old-0000000001.raw",
            "gone-ID.vhd.sha256",
            "i-ID.raw-1700000000.tmp",
        ];
        let dir = dir_with(&names.map(|name| name.replace("ID", ID)));
        fs::write(dir.path().join("builder_id.txt"), "x").unwrap();
        fs::write(dir.path().join("my-fade.txt"), "somebody's file, not a build's").unwrap();
        let formats = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let expected = LocalFiles::from([
            (("a.b-c".into(), ID.into()), formats(&["qcow2"])),
            (("old".into(), "0000000001".into()), formats(&["raw"])),
            (("gone".into(), ID.into()), formats(&[])),
            (("i".into(), ID.into()), formats(&[])),
        ]);
        assert_eq!(scan(dir.path()).unwrap(), expected);
    }

    #[test]
    fn all_files_of_a_build_go_or_those_of_a_format_and_no_others() {
        let names =
            ["i-ID.raw", "i-ID.raw.md5", "i-ID.qcow2", "i-ID.qcow2.sha256", "i-ID.d", "j-i-ID.raw", "builder_id.txt"];
        let dir = dir_with(&names.map(|name| name.replace("ID", ID)));
        let (image, build) = (ImageName::from("i"), BuildId::from(ID));
        assert_eq!(delete(dir.path(), &image, &build, Some(&["raw".to_owned()])).unwrap().len(), 2);
        let expected = ["builder_id.txt", "i-ID.d", "i-ID.qcow2", "i-ID.qcow2.sha256", "j-i-ID.raw"];
        let expected: Vec<String> = expected.iter().map(|name| name.replace("ID", ID)).collect();
        assert_eq!(left(&dir), [&expected[..1], &expected[1..]].concat());
        assert_eq!(delete(dir.path(), &image, &build, None).unwrap().len(), 3);
        assert_eq!(left(&dir), ["builder_id.txt".to_owned(), format!("j-i-{ID}.raw")]);
        assert!(delete(dir.path(), &image, &build, None).unwrap().is_empty());
    }

    #[test]
    fn missing_checksums_are_computed_and_those_that_are_there_stay() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("i.raw");
        fs::write(&file, "abc").unwrap();
        let stopped = CancellationToken::new();
        stopped.cancel();
        add_checksums(&file, &stopped).unwrap();
        assert_eq!(checksums(&file), (None, None));
        add_checksums(&file, &CancellationToken::new()).unwrap();
        let md5 = "900150983cd24fb0d6963f7d28e17f72";
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(checksums(&file), (Some(md5.to_owned()), Some(sha256.to_owned())));
        assert_eq!(fs::read_to_string(dir.path().join("i.raw.md5")).unwrap(), format!("{md5}  i.raw\n"));
        fs::write(dir.path().join("i.raw.md5"), "not a checksum").unwrap();
        assert_eq!(checksums(&file), (None, Some(sha256.to_owned())));
        let other = "0".repeat(64);
        fs::write(dir.path().join("i.raw.sha256"), &other).unwrap();
        add_checksums(&file, &CancellationToken::new()).unwrap();
        assert_eq!(checksums(&file), (Some(md5.to_owned()), Some(other)), "what the build has said counts");
    }

    #[test]
    fn a_builder_keeps_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let id = builder_id(dir.path(), &Entropy::system()).unwrap();
        assert!(uuid::Uuid::parse_str(&id).is_ok(), "{id}");
        assert_eq!(builder_id(dir.path(), &Entropy::system()).unwrap(), id);
        let claim = claim(dir.path()).unwrap();
        assert!(claim.is_some());
        assert!(super::claim(dir.path()).unwrap_err().to_string().contains("another builder"));
        drop(claim);
        assert!(super::claim(dir.path()).unwrap().is_some());
        assert_eq!(left(&dir), ["builder_id.txt"]);
        fs::write(dir.path().join("builder_id.txt"), "").unwrap();
        assert_ne!(builder_id(dir.path(), &Entropy::system()).unwrap(), "");
    }
}
