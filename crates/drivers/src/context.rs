//! [`Context`]: what of the outside drivers use besides their clouds.

use std::collections::HashMap;

/// The process's environment, given once, so that a test can give another one.
#[derive(Clone, Debug, Default)]
pub struct Context {
    variables: HashMap<String, String>,
}

impl Context {
    /// The process's own environment.
    pub fn from_env() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            // A name or value that is no text is none of ours.
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self { variables: variables.collect() }
    }

    /// The same with one more variable.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// A variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}
