//! An error with all that caused it, as one line for people.

use std::{error::Error, fmt::Write as _};

/// The error's text and those of its causes, outermost first: the outermost alone rarely says why. A cause that the text
/// repeats already is not said twice.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            // Writing to a text does not fail.
            let _ = write!(text, ": {said}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Outer {
        text: &'static str,
        source: io::Error,
    }

    #[test]
    fn each_cause_is_said_once() {
        let outer = |text| Outer { text, source: io::Error::other("the disk is full") };
        assert_eq!(with_causes(&outer("cannot write")), "cannot write: the disk is full");
        assert_eq!(with_causes(&outer("cannot write: the disk is full")), "cannot write: the disk is full");
    }
}
