//! The text of a configuration file: read, decoded, and with `%(NODEPOOL_X)` substituted.

use std::{ffi::OsString, io::ErrorKind, path::Path};

use super::{
    duplicates,
    report::Report,
    yaml::{self, Document, Mark, Problem, WhichFile},
};

/// The environment as far as the configuration may see it: variables named `NODEPOOL_…`, in the environment's order.
#[derive(Clone, Debug, Default)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// This process's.
    pub fn of_this_process() -> Self {
        Self::new(std::env::vars_os())
    }

    /// Of these variables.
    pub fn new(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let text = |value: OsString| value.to_string_lossy().into_owned();
        let ours = variables.into_iter().map(|(name, value)| (text(name), text(value)));
        Self(ours.filter(|(name, _)| name.starts_with("NODEPOOL_")).collect())
    }

    /// Replaces each `%(NAME)`, one variable after the other, as upstream: textually, without quoting. (An `s` behind
    /// the bracket is no part of it and stays.)
    fn substitute(&self, mut text: String) -> String {
        for (name, value) in &self.0 {
            let mark = format!("%({name})");
            if text.contains(&mark) {
                text = text.replace(&mark, value);
            }
        }
        text
    }
}

/// Reads and parses one file; what is odd about it goes to the report. `None`: an error was reported.
pub fn read(path: &Path, env: &Environment, report: &Report) -> Option<Document> {
    match std::fs::read(path) {
        Ok(bytes) => parse(&bytes, env, report),
        Err(error) => {
            let help = match error.kind() {
                ErrorKind::NotFound => Some("it is gone, or was never there; `-c FILE` names another one"),
                ErrorKind::IsADirectory => Some("name the file in it: `-c FILE`"),
                ErrorKind::PermissionDenied => Some("run this as a user who may read it"),
                _ => None,
            };
            report.error(Mark::default(), format!("cannot read the configuration: {error}"), help.map(str::to_owned));
            None
        }
    }
}

/// Parses the bytes of a file that stands for itself.
pub fn parse(bytes: &[u8], env: &Environment, report: &Report) -> Option<Document> {
    parse_file(bytes, WhichFile::Main, env, report)
}

/// Parses the bytes of one file.
pub fn parse_file(bytes: &[u8], file: WhichFile, env: &Environment, report: &Report) -> Option<Document> {
    let unset = RefUnset::default();
    let mut written = String::new();
    let document = decode(bytes).and_then(|text| {
        look_for_other_references(&text, report);
        if report.strict() {
            written.clone_from(&text);
        }
        let text = env.substitute(text);
        unset.look_for(&text, report);
        printable(&text)?;
        yaml::parse_file(&text, file)
    });
    match document {
        Ok(document) => {
            document.duplicates.iter().for_each(|duplicate| duplicates::tell(report, duplicate));
            // Only in strict mode is there a text: in a daemon's log what is repeated of it could be a password.
            let is_in_block = |line: usize| document.blocks.iter().any(|block| block.contains(&line));
            for (line, content) in (1..).zip(written.split('\n')).filter(|(line, _)| !is_in_block(*line)) {
                not_filled_in(line, content, report);
            }
            if let Some(first) = document.tabs.first() {
                let message = "a tab stands here where only spaces may stand: Python Nodepool cannot read the file";
                report.lapse(*first, message, Some(yaml::advice_on_tabs(*first, &document.tabs)));
            }
            let mut told: Vec<char> = Vec::new();
            for odd in &document.odd {
                if !told.contains(&odd.c) {
                    told.push(odd.c);
                    report.warning(odd.at, odd.message(), Some(odd.advice(&document.odd)));
                }
            }
            Some(document)
        }
        Err(problem) => {
            let (message, help) = match &problem.in_general {
                // A daemon's errors are in its log and, for everybody, in `/ready`.
                Some(general) if !report.strict() => {
                    (general.clone(), Some("`nodepool config-validate` says what to write".to_owned()))
                }
                _ => (problem.message, problem.help),
            };
            report.error(problem.at, message, unset.help(problem.at.line).or(help));
            None
        }
    }
}

/// Python's text mode: UTF-8, and each of `\r\n`, `\r`, `\n` is a line's end.
fn decode(bytes: &[u8]) -> Result<String, Problem> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.replace("\r\n", "\n").replace('\r', "\n")),
        Err(error) => {
            let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let help = "save the file as UTF-8, or write this character without accent";
            Err(Problem::new(after(&good), "this is not UTF-8 text", help))
        }
    }
}

/// PyYAML refuses control characters, and rightly: zeros are what a crash leaves in a half-written file.
fn printable(text: &str) -> Result<(), Problem> {
    let allowed = |c: char| match c {
        '\t' | '\n' | '\r' | '\u{85}' => true,
        c => !c.is_control() && !matches!(c, '\u{fffe}' | '\u{ffff}'),
    };
    match text.char_indices().find(|(_, c)| !allowed(*c)) {
        Some((offset, c)) => {
            let message = format!("the control character U+{:04X} cannot stand in YAML", u32::from(c));
            let help = "remove it; many zeros are what a crash leaves of a file";
            Err(Problem::new(after(&text[..offset]), message, help))
        }
        None => Ok(()),
    }
}

/// The place behind a text.
fn after(text: &str) -> Mark {
    let last_line = text.rsplit('\n').next().unwrap_or_default();
    Mark::new(text.matches('\n').count() + 1, last_line.chars().count() + 1)
}

/// Warns of what looks like a reference to the environment and stays in the text, or leaves an `s` behind: only
/// `%(NODEPOOL_X)` is one. Each is told once. Comments are passed over, and names in small letters, which are formats of
/// something else.
fn look_for_other_references(text: &str, report: &Report) {
    let mut told: Vec<&str> = Vec::new();
    for (line, content) in (1..).zip(text.split('\n')).filter(|(_, content)| !content.trim_start().starts_with('#')) {
        for (start, _) in content.match_indices("%(") {
            let rest = &content[start + 2..];
            let Some((name, behind)) = rest.split_once(')') else { continue };
            let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            if !name.starts_with(|c: char| c.is_ascii_uppercase()) || !name.chars().all(is_name) || told.contains(&name)
            {
                continue;
            }
            let has_s = behind.starts_with('s') && !behind[1..].starts_with(|c: char| c.is_ascii_alphanumeric());
            let at = Mark::new(line, content[..start].chars().count() + 1);
            if name.starts_with("NODEPOOL_") {
                if has_s {
                    told.push(name);
                    let message = format!("the `s` behind `%({name})` stays in the text, behind the variable's value");
                    report.warning(at, message, Some("leave it out".to_owned()));
                }
                continue;
            }
            told.push(name);
            let shown = if has_s { format!("%({name})s") } else { format!("%({name})") };
            let message = format!(
                "`{shown}` stays as it is: only environment variables whose names begin with NODEPOOL_ are put in"
            );
            report.warning(at, message, Some(format!("write `%(NODEPOOL_{name})` and set that variable")));
        }
    }
}

/// Warns of a value that is a variable of a shell or a place to be filled in, and nothing else.
fn not_filled_in(line: usize, content: &str, report: &Report) {
    let content = if content.trim_start().starts_with('#') { "" } else { content };
    let value = content.rsplit_once(": ").or_else(|| content.rsplit_once("- ")).map_or("", |(_, value)| value);
    let value = value.trim().trim_matches(['"', '\'']);
    let at = Mark::new(line, content.find(value).map_or(1, |start| content[..start].chars().count() + 1));
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    let variable = value
        .strip_prefix('$')
        .map(|rest| rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or(rest));
    if let Some(name) = variable.filter(|name| is_name(name)) {
        let ours = if name.starts_with("NODEPOOL_") { name.to_owned() } else { format!("NODEPOOL_{name}") };
        let message = format!("`{value}` stays as it is: variables of the environment are put in by another form only");
        report.warning(at, message, Some(format!("write `%({ours})` and set that variable")));
    }
    let inner = value.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    let is_of_template = value.starts_with("{{") && value.ends_with("}}");
    if is_of_template || inner.is_some_and(|inner| !inner.is_empty() && !inner.contains(['<', '>'])) {
        let message = format!("`{value}` looks like a place that is to be filled in");
        report.warning(at, message, Some("write what is meant there".to_owned()));
    }
}

/// The first reference to a variable that is not set: it stays in the text, and often is what breaks the YAML.
#[derive(Default)]
struct RefUnset(std::cell::OnceCell<(String, Mark)>);

impl RefUnset {
    fn look_for(&self, text: &str, report: &Report) {
        let Some(start) = text.find("%(NODEPOOL_") else { return };
        let name: String =
            text[start + 2..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').take(80).collect();
        let message = format!("the environment variable {name} is not set: `%({name})` stays as it is");
        let at = after(&text[..start]);
        report.warning(at, message, Some(format!("set {name}, or write the value in the place of `%({name})`")));
        let _ = self.0.set((name, at));
    }

    /// What to say of a problem in that line, where the reference stands in it.
    fn help(&self, line: usize) -> Option<String> {
        let (name, _) = self.0.get().filter(|(_, at)| at.line == line)?;
        Some(format!("is the environment variable {name}, which the file refers to, meant to be set?"))
    }
}
