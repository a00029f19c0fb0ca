//! What people are told of credentials that cannot be had: neither a command's environment nor what a plugin has printed.
//!
//! kube's own messages have both, and an error goes to the log and to `/ready`. An exec plugin's environment may hold a
//! password (`OS_PASSWORD` from the kubeconfig's `exec.env`), its arguments a secret as well, and what it prints is the
//! token. Such an error comes as [`kube::Error::Auth`] when a client is made, and somewhere inside a service's error when
//! a token is renewed.

use std::{error::Error, path::Path, process::Output};

use kube::client::AuthError;

use super::kubeconfig;

/// How many characters of what a plugin says on its standard error are told, the last ones.
const TOLD: usize = 300;

/// What is told of the credentials' error that an error is, or was caused by.
pub fn told_in(error: &(dyn Error + 'static)) -> Option<String> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref() {
            return Some(told(error));
        }
        cause = error.source();
    }
    None
}

/// What is told of it.
pub fn told(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecRun { cmd, out } => of_failure(cmd, out),
        AuthError::AuthExecParse(error) => {
            format!("the output of its exec plugin{}: this is no ExecCredential", kubeconfig::place(error))
        }
        AuthError::MalformedTokenExpirationDate(_) => "the token's time of expiry is none".to_owned(),
        other => other.to_string(),
    }
}

fn of_failure(command: &str, out: &Output) -> String {
    let name = program(command).map(|name| format!(" {name}")).unwrap_or_default();
    let said = String::from_utf8_lossy(&out.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    let left_out = said.chars().count().saturating_sub(TOLD);
    let why = match left_out {
        // Without `interactiveMode: Never` a plugin has our standard error as its own.
        _ if said.is_empty() => "it may have told why on this process's standard error".to_owned(),
        0 => said,
        _ => format!("…{}", said.chars().skip(left_out).collect::<String>()),
    };
    format!("its exec plugin{name} has failed ({}): {why}", out.status)
}

/// The program's name in a command as kube shows it: of an exec plugin as [`std::process::Command`] is debugged
/// (`env -u UNSET NAME="VALUE" "PROGRAM" "ARGUMENT"`), of a `gcp` provider in words. `None`: it is not certain which part
/// of it that is.
fn program(command: &str) -> Option<&str> {
    // kube sets this, or a kubeconfig's `dropEnv` unsets it.
    let path = if command.contains("KUBERNETES_EXEC_INFO") {
        let mut rest = command;
        loop {
            if let Some(quoted) = rest.strip_prefix('"') {
                break &quoted[..end_of_quoted(quoted)?];
            }
            let end = rest.find([' ', '"'])?;
            rest = match rest[end..].strip_prefix('"') {
                Some(value) => value[end_of_quoted(value)?..].strip_prefix("\" ")?,
                None => &rest[end + 1..],
            };
        }
    } else {
        command.split(' ').next()?
    };
    Path::new(path).file_name()?.to_str()
}

/// Where a text ends whose opening quotation mark is before it.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mut is_escaped = false;
    text.find(|char| {
        let is_end = char == '"' && !is_escaped;
        is_escaped = char == '\\' && !is_escaped;
        is_end
    })
}

#[cfg(test)]
mod tests {
    use std::{
        os::unix::process::ExitStatusExt,
        process::{Command, ExitStatus},
    };

    use serde_json::Value;

    use super::*;

    fn failure(cmd: String, stderr: &str) -> AuthError {
        let out = Output {
            status: ExitStatus::from_raw(3 << 8),
            stdout: b"the-token".to_vec(),
            stderr: stderr.as_bytes().to_vec(),
        };
        AuthError::AuthExecRun { cmd, out: Box::new(out) }
    }

    #[test]
    fn of_a_plugin_that_failed_neither_environment_nor_arguments_nor_output_are_told() {
        let mut command = Command::new("/opt/a b/client-keystone-auth");
        command
            .args(["--password", "hunter2"])
            .env("OS_PASSWORD", "hunter2 \"x\" \\")
            .env("KUBERNETES_EXEC_INFO", "{}");
        let said = "its exec plugin client-keystone-auth has failed (exit status: 3): no route to host";
        assert_eq!(told(&failure(format!("{command:?}"), "no route\n to host\n")), said);
        command.env_remove("HOME").env_remove("KUBERNETES_EXEC_INFO");
        assert_eq!(told(&failure(format!("{command:?}"), "no route to host")), said, "also where some are unset");
        let gcp = failure("/usr/bin/gcloud config --token=\"hunter2\"".to_owned(), "");
        assert_eq!(
            told(&gcp),
            "its exec plugin gcloud has failed (exit status: 3): it may have told why on this process's standard error"
        );
        let odd = failure("KUBERNETES_EXEC_INFO='{}' OS_PASSWORD='hunter2' plugin".to_owned(), "no");
        assert_eq!(told(&odd), "its exec plugin has failed (exit status: 3): no", "shown in another way than we know");
    }

    #[test]
    fn of_a_long_complaint_the_end_is_told() {
        let told = told(&failure("plugin x".to_owned(), &format!("Traceback {}ä the cause", "ä".repeat(1000))));
        assert!(told.ends_with("ä the cause") && told.contains(": …ä"), "{told}");
        assert!(told.chars().count() < 400, "{told}");
    }

    #[test]
    fn of_output_that_is_no_credential_only_the_place_is_told() {
        let error = serde_saphyr::from_str::<Value>("{\"status\":\n  {\"token\": \"hunter2\"").unwrap_err();
        let error = kube::Error::Auth(AuthError::AuthExecParse(Box::new(error)));
        let told = told_in(&error).unwrap();
        assert!(
            told.starts_with("the output of its exec plugin:2:") && told.ends_with(": this is no ExecCredential"),
            "{told}"
        );
        assert!(!told.contains("hunter2"), "{told}");
        assert_eq!(told_in(&std::io::Error::other("no route")), None);
    }
}
