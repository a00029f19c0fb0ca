//! What Ansible's remote commands say of themselves, noted while they pass: the words by which what runs under sudo is
//! known, and the temporary directories.
//!
//! sudo clears the environment, and with it our mark; but it tells its own command line to what it starts
//! (`SUDO_COMMAND`), and in Ansible's stands a word that is made for this one task, `BECOME-SUCCESS-…`.

use std::{collections::BTreeSet, fs, io::Write as _, path::Path};

const BECOME: &str = "BECOME-SUCCESS-";
const TEMPORARY: &str = "ansible-tmp-";

/// What a build has left on its hosts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// `BECOME-SUCCESS-…` of each task under another user.
    pub becomes: BTreeSet<String>,
    /// Full paths of Ansible's temporary directories.
    pub temporaries: BTreeSet<String>,
}

/// Adds what a remote command says.
pub fn append(file: &Path, command: &str) {
    let notes = of(command);
    let words = notes.becomes.iter().chain(&notes.temporaries);
    let lines = words.map(|word| format!("{word}\n")).collect::<Vec<_>>().concat();
    if !lines.is_empty() {
        // One write, so that lines of calls at the same time do not mix.
        let opened = fs::OpenOptions::new().create(true).append(true).open(file);
        let _ = opened.and_then(|mut file| file.write_all(lines.as_bytes()));
    }
}

/// All that was noted.
pub fn read(file: &Path) -> Notes {
    of(&fs::read_to_string(file).unwrap_or_default())
}

fn of(text: &str) -> Notes {
    let mut notes = Notes::default();
    // A path, or one of our words, and nothing that a shell could misunderstand.
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    for word in text.split(|c| !plain(c)) {
        if let Some(id) = word.strip_prefix(BECOME) {
            if !id.is_empty() {
                notes.becomes.insert(word.to_owned());
            }
        } else if let Some((parent, rest)) = word.split_once(TEMPORARY) {
            let name: String = rest.split('/').next().unwrap_or_default().to_owned();
            let made_by_ansible = name.len() > 10 && name.chars().all(|c| c.is_ascii_digit() || ".-".contains(c));
            if made_by_ansible && parent.starts_with('/') && parent.len() > 1 && !parent.contains("/../") {
                notes.temporaries.insert(format!("{parent}{TEMPORARY}{name}"));
            }
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_task_are_found_in_its_commands() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("notes");
        append(&file, "/bin/sh -c 'echo ~ && sleep 0'");
        assert!(!file.exists());
        let made = "/bin/sh -c '( umask 77 && mkdir -p \"` echo /home/n/.ansible/tmp `\"&& mkdir \"` echo \
                    /home/n/.ansible/tmp/ansible-tmp-1700000000.1-42-7 `\" && echo ansible-tmp-1700000000.1-42-7=\"` echo \
                    /home/n/.ansible/tmp/ansible-tmp-1700000000.1-42-7 `\" ) && sleep 0'";
        append(&file, made);
        append(
            &file,
            "/bin/sh -c 'sudo -H -S -n  -u root /bin/sh -c '\"'\"'echo BECOME-SUCCESS-abcdef ; /usr/bin/python3 \
                       /home/n/.ansible/tmp/ansible-tmp-1700000000.1-42-7/AnsiballZ_command.py'\"'\"' && sleep 0'",
        );
        let notes = read(&file);
        assert_eq!(notes.becomes.into_iter().collect::<Vec<_>>(), ["BECOME-SUCCESS-abcdef"]);
        assert_eq!(
            notes.temporaries.into_iter().collect::<Vec<_>>(),
            ["/home/n/.ansible/tmp/ansible-tmp-1700000000.1-42-7"]
        );
    }

    #[test]
    fn nothing_but_ansibles_own_directories_is_ever_noted() {
        for path in [
            "/ansible-tmp-",
            "/home/ansible-tmp-x1700000000.1-42",
            "ansible-tmp-1700000000.1-42-7",
            "/a/../ansible-tmp-1700000000.1-42-7",
        ] {
            assert_eq!(of(path), Notes::default(), "{path}");
        }
    }
}
