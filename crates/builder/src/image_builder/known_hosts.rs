//! Known hosts as `ssh-keygen` reads and writes them: fingerprints, look-ups, additions, replacements.

use std::{
    fmt, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::scratch;

/// A key, as messages name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// `ED25519`.
    pub kind: String,
    /// `SHA256:…`.
    pub fingerprint: String,
    /// The file that has it.
    pub file: PathBuf,
    /// Its line there, from 1.
    pub line: usize,
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({} line {})", self.kind, self.fingerprint, self.file.display(), self.line)
    }
}

/// The keys that these files have for a host.
pub fn lookup(files: &[PathBuf], name: &str) -> Vec<Known> {
    files.iter().flat_map(|file| lookup_in(file, name)).collect()
}

/// `ssh-keygen -F`: finds hashed names and patterns, too.
fn lookup_in(file: &Path, name: &str) -> Vec<Known> {
    let mut command = Command::new("ssh-keygen");
    command.args(["-l", "-F", name, "-f"]).arg(file).stdin(Stdio::null()).stderr(Stdio::null());
    let Ok(output) = command.output() else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    let (mut line_number, mut found) = (0, Vec::new());
    for line in text.lines() {
        // `# Host NAME found: line N`, then `NAME TYPE FINGERPRINT [COMMENT]`.
        if let Some((_, number)) = line.strip_prefix("# Host ").and_then(|rest| rest.rsplit_once("found: line ")) {
            line_number = number.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        } else if let [_, kind, fingerprint, ..] = line.split_whitespace().collect::<Vec<_>>()[..] {
            found.push(Known {
                kind: kind.to_owned(),
                fingerprint: fingerprint.to_owned(),
                file: file.to_owned(),
                line: line_number,
            });
        }
    }
    found
}

/// The fingerprint of `TYPE BASE64`, as `ssh-keygen -l` tells it: bits, fingerprint, type.
pub fn fingerprint(key: &str) -> Option<(String, String, String)> {
    let mut child = Command::new("ssh-keygen")
        .args(["-l", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let written = child.stdin.take().map(|mut input| writeln!(input, "{key}"));
    let output = child.wait_with_output().ok()?;
    written?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let words: Vec<&str> = text.split_whitespace().collect();
    let [bits, fingerprint, .., kind] = words[..] else { return None };
    Some((bits.to_owned(), fingerprint.to_owned(), kind.trim_matches(['(', ')']).to_owned()))
}

/// Adds lines `NAME TYPE BASE64`, with hashed names if asked for. The file and its directory are made if need be.
pub fn add(file: &Path, name: &str, keys: &[String], hashed: bool) -> io::Result<()> {
    let lines = keys.iter().map(|key| format!("{name} {key}\n")).collect::<Vec<_>>().concat();
    let lines = if hashed { with_hashed_names(&lines)? } else { lines };
    if let Some(directory) = file.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::create_dir_all(directory)?;
    }
    let unended = fs::read(file).is_ok_and(|text| text.last().is_some_and(|last| *last != b'\n'));
    let mut file = fs::OpenOptions::new().create(true).append(true).open(file)?;
    file.write_all(format!("{}{lines}", if unended { "\n" } else { "" }).as_bytes())
}

/// Lets ssh-keygen hash them.
fn with_hashed_names(lines: &str) -> io::Result<String> {
    let directory = scratch::directory("nodepool-hosts-", None)?;
    let file = directory.path().join("known_hosts");
    fs::write(&file, lines)?;
    let status = Command::new("ssh-keygen")
        .args(["-q", "-H", "-f"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if !status.success() {
        return Err(io::Error::other(format!("ssh-keygen -H failed with {status}")));
    }
    fs::read_to_string(&file)
}

/// Takes a host's name off these lines; a line that has no other goes. What a pattern covers stays, and is an error.
/// All else in the file stays byte for byte.
pub fn remove(file: &Path, name: &str, lines: &[usize]) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    let mut kept = String::with_capacity(text.len());
    for (number, line) in text.split_inclusive('\n').enumerate().map(|(at, line)| (at + 1, line)) {
        if !lines.contains(&number) {
            kept.push_str(line);
            continue;
        }
        let start = line.len() - line.trim_start().len();
        let (names, rest) = line[start..].split_once([' ', '\t']).unwrap_or((&line[start..], ""));
        if names.starts_with("|1|") {
            continue; // hashed: one name a line
        }
        let others: Vec<&str> = names.split(',').filter(|other| !other.eq_ignore_ascii_case(name)).collect();
        if others.len() == names.split(',').count() {
            return Err(io::Error::other(format!("line {number} covers it by `{names}`: change it by hand")));
        }
        if !others.is_empty() {
            kept.extend([&line[..start], &others.join(","), " ", rest]);
        }
    }
    replace(file, &kept)
}

/// By renaming where the directory allows it, with the file's permissions; a link stays one.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let file = fs::canonicalize(file)?;
    let permissions = fs::metadata(&file)?.permissions();
    let renamed = file.parent().map(|directory| {
        let mut draft = tempfile::NamedTempFile::new_in(directory)?;
        draft.write_all(text.as_bytes())?;
        draft.as_file().set_permissions(permissions)?;
        draft.persist(&file).map(|_| ()).map_err(|error| error.error)
    });
    match renamed {
        Some(Ok(())) => Ok(()),
        // A file that is a mount, or in a directory of somebody else.
        _ => fs::write(&file, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> String {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&file).status().unwrap();
        assert!(made.success());
        let text = fs::read_to_string(file.with_extension("pub")).unwrap();
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_was_added_is_found_hashed_or_not() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("new/known_hosts");
        let (one, other) = (key(), key());
        add(&file, "[ib]:2222", std::slice::from_ref(&one), false).unwrap();
        add(&file, "other", std::slice::from_ref(&other), true).unwrap();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with(&format!("[ib]:2222 {one}\n|1|")), "{text}");
        let found = lookup(std::slice::from_ref(&file), "other");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].line, found[0].kind.as_str()), (2, "ED25519"));
        let (bits, print, kind) = fingerprint(&other).unwrap();
        assert_eq!((bits.as_str(), &print, kind.as_str()), ("256", &found[0].fingerprint, "ED25519"));
        assert!(lookup(&[file], "[ib]:22").is_empty());
    }

    #[test]
    fn a_removal_touches_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let key = key();
        fs::write(&file, format!("# mine\nib,ib.example {key} me\n\nib {key}\nother {key}")).unwrap();
        remove(&file, "ib", &[2, 4]).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), format!("# mine\nib.example {key} me\n\nother {key}"));
        add(&file, "ib", &["new key".to_owned()], false).unwrap();
        assert!(fs::read_to_string(&file).unwrap().ends_with(&format!("other {key}\nib new key\n")));
    }

    #[test]
    fn a_pattern_is_left_to_people() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        let text = format!("*.example {}\n", key());
        fs::write(&file, &text).unwrap();
        let error = remove(&file, "ib.example", &[1]).unwrap_err();
        assert_eq!(error.to_string(), "line 1 covers it by `*.example`: change it by hand");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
}
