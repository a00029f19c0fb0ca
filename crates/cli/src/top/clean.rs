//! Texts of records and of launchers, before they reach a terminal: what is in them was written by anybody.
//!
//! Control characters would be orders to the terminal; marks of direction and invisible characters make a text look like another
//! one, and terminals do not agree about the room that they take. Each is shown as [`SHOWN`]; of marks that combine with the character
//! before them, a few are kept.

use unicode_width::UnicodeWidthChar as _;

/// What stands for a character that is not shown.
pub const SHOWN: char = '·';
/// Marks on one character; a text of nothing else would grow over the lines above.
const MARKS: usize = 2;
/// Characters of one text that are shown at most.
const LONGEST: usize = 4000;

/// A text on one line.
pub fn line(text: &str) -> String {
    // The rule, at no cost.
    if text.len() <= LONGEST && text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return text.to_owned();
    }
    let (mut clean, mut marks) = (String::with_capacity(text.len().min(LONGEST)), MARKS);
    for character in text.chars().take(LONGEST) {
        match character {
            '\n' | '\t' | '\r' => clean.push(' '),
            _ if character.is_control() || is_invisible(character) => clean.push(SHOWN),
            _ if character.width() == Some(0) => {
                if marks < MARKS {
                    clean.push(character);
                }
                marks += 1;
                continue;
            }
            _ => clean.push(character),
        }
        marks = 0;
    }
    clean
}

/// Characters that show nothing by themselves and change what is around them.
fn is_invisible(character: char) -> bool {
    matches!(u32::from(character),
        0xad | 0x34f | 0x61c | 0x115f..=0x1160 | 0x17b4..=0x17b5 | 0x180b..=0x180f | 0x200b..=0x200f | 0x2028..=0x202e
        | 0x2060..=0x206f | 0x3164 | 0xfe00..=0xfe0f | 0xfeff | 0xffa0 | 0xfff0..=0xfffb | 0xe0000..=0xe0fff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_to_a_terminal_and_marks_of_direction_are_shown_as_dots() {
        for (text, expected) in [
            ("plain", "plain"),
            ("a\u{1b}[2J\u{7}b\u{9b}31mc\u{7f}", "a·[2J·b·31mc·"),
            ("x\u{202e}txt.exe\u{200d}", "x·txt.exe·"),
            ("two\nlines\tand\r", "two lines and "),
            ("日本 é e\u{301}", "日本 é e\u{301}"),
            ("e\u{301}\u{301}\u{301}\u{301}x", "e\u{301}\u{301}x"),
            ("\u{301}lone", "lone"),
        ] {
            assert_eq!(line(text), expected);
        }
        assert_eq!(line(&"x".repeat(5000)).len(), LONGEST);
    }
}
