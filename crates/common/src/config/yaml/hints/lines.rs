//! What the lines around a place show: a colon, a dash or a space too many or too few, an indentation that fits nothing
//! above.

use super::{
    Hint, Source, in_quotes,
    layout::{Content, Level, open_levels},
    shortened, without_space,
};
use crate::config::yaml::Mark;

impl<'t> Source<'t> {
    /// `key: a: b`
    pub(super) fn second_colon(&self) -> Option<Hint> {
        let content = Content::of(self.line(self.at.line))?;
        let key = content.key?;
        if let Some((first, _)) = key.split_once(':').filter(|_| without_space(key).is_some()) {
            let help = format!("write `{first}: …`");
            return self.hint(format!("a space is missing behind the colon of `{first}:`"), help);
        }
        let is_behind_first = self.at.column > content.column + key.chars().count() + 1;
        if !is_behind_first || !(content.value.contains(": ") || content.value.ends_with(':')) {
            return None;
        }
        let help = in_quotes(content.value);
        let help = match content.value.split_once(", ") {
            Some((value, rest)) if rest.contains(": ") => {
                format!("write `{key}: {}`, and each other key in a line of its own below; or {help}", shortened(value))
            }
            _ if content.value.ends_with(':') => format!("take the last colon away, or {help}"),
            _ => help,
        };
        self.hint(format!("the value of `{key}` has a colon in it, as if it were a key, too"), help)
    }

    /// The line above goes on in this one, which it should not: its key lacks a space or its colon, or has a value already.
    pub(super) fn line_above(&self) -> Option<Hint> {
        let this = Content::of(self.line(self.at.line))?;
        if let Some((line, key)) = self.text_above(this.indent) {
            let message =
                format!("this line belongs to the text of `{key}` in line {line}, whose first line is indented deeper");
            return self.hint(message, format!("indent all lines of that text alike, deeper than `{key}`"));
        }
        let (line, above) = self.above()?;
        let is_name = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        let at = Mark::new(line, above.column + 1);
        if above.is_item()
            && above.key.is_none()
            && this.indent > above.indent
            && this.key.is_some()
            && !above.value.is_empty()
            && above.value.chars().all(is_name)
        {
            let name = shortened(above.value);
            let message = format!("the item `{name}` has no key, so that the next line cannot belong to it");
            let help = format!("write `- name: {name}` if that is its name, and the other keys below `name`");
            return Some(Hint { at, message, help });
        }
        if this.indent < above.column {
            return None;
        }
        let Some(key) = above.key else {
            if let Some(meant) = without_space(above.value) {
                let message = format!("a space is missing behind the colon of `{}`", above.value);
                return Some(Hint { at, message, help: format!("write `{meant}`") });
            }
            if above.value.is_empty() || above.value.starts_with(['"', '\'', '[', '{']) {
                return None;
            }
            let message =
                format!("`{}` has no colon, so that the next line cannot belong to it", shortened(above.value));
            let help = format!("write `{}` if it is a key; else indent the next line less", with_colon(above.value));
            return Some(Hint { at, message, help });
        };
        if this.indent > above.column
            && let Some(hint) = without_dash_space(key, at)
        {
            return Some(hint);
        }
        if above.value.is_empty() || this.indent <= above.column {
            return None;
        }
        let message = format!("this line is indented deeper than line {line}, where `{key}` has its value already");
        let item = if this.indent == above.column + 2 && self.may_be_an_item(line, &above) {
            format!("; or write `- {key}: …` in line {line} if an item begins there")
        } else {
            String::new()
        };
        let help = format!(
            "indent it by {}, like `{key}`{item}; or take the value of `{key}` away if this belongs below it",
            spaces(above.column)
        );
        self.hint(message, help)
    }

    /// Whether a line is the first one below a key, where a list could begin.
    fn may_be_an_item(&self, line: usize, content: &Content<'_>) -> bool {
        let before = (1..line).rev().find_map(|number| Content::of(self.line(number)));
        !content.is_item()
            && before.is_some_and(|key| key.key.is_some() && key.value.is_empty() && key.column < content.column)
    }

    /// The line and the key of a block scalar whose text goes on where a line is indented like this.
    fn text_above(&self, indent: usize) -> Option<(usize, &'t str)> {
        let mut above = (1..self.at.line).rev().map(|number| (number, self.line(number)));
        let is_deeper = |line: &str, than: usize| line.trim().is_empty() || line.len() - line.trim_start().len() > than;
        let (number, content) = above.find_map(|(number, line)| {
            let content = Content::of(line).filter(Content::begins_block_scalar)?;
            Some((number, content))
        })?;
        let is_text = (number + 1..self.at.line).all(|below| is_deeper(self.line(below), content.column));
        content.key.filter(|_| is_text && indent > content.column).map(|key| (number, key))
    }

    /// A line that stands at no level of those that are open.
    pub(super) fn indentation(&self) -> Option<Hint> {
        let this = Content::of(self.line(self.at.line))?;
        let place = Mark { column: this.column + 1, ..self.at };
        if let Some(hint) = without_dash_space(this.key.unwrap_or(this.value), place) {
            return Some(hint);
        }
        if this.key.is_none() && this.value.starts_with('!') {
            let message = format!(
                "`{}` is a tag of another program: a configuration includes no other files",
                shortened(this.value)
            );
            return self.hint(message, "write here what stands in the other file");
        }
        if this.key.is_none() && !this.is_item() {
            let help = match without_space(this.value) {
                Some(meant) => format!("write `{meant}`, with a space behind the colon"),
                None => format!(
                    "write `{}` if it is a key, `- {}` if it is an item of a list",
                    with_colon(this.value),
                    this.value
                ),
            };
            return self
                .hint(format!("`{}` is no key with a value, and no item of a list", shortened(this.value)), help);
        }
        let levels = open_levels(&self.lines[..self.at.line - 1]);
        let fits = |level: &&Level<'_>| level.key.is_none() == this.is_item();
        let places: Vec<&Level<'_>> = levels.iter().filter(fits).collect();
        let below = places.iter().rev().find(|level| level.indent < this.indent);
        let same = places.iter().rev().find(|level| level.indent == this.indent);
        let deeper = places.iter().find(|level| level.indent > this.indent);
        let is_list = |level: &&Level<'_>| level.key.is_none() && level.indent == this.indent;
        if let (Some(key), false, Some(list)) = (this.key, this.is_item(), levels.iter().find(is_list)) {
            let message = format!("line {} begins a list at this indentation, whose items begin with `- `", list.line);
            let deeper = deeper.map(|level| format!("indent it by {}", as_level(level)));
            let no_list = format!("take the dash of line {} away if that is no list", list.line);
            let help = [deeper, Some(format!("write `- {key}: …` if an item begins here")), Some(no_list)];
            return self.hint(message, help.into_iter().flatten().collect::<Vec<_>>().join(", or "));
        }
        if same.is_some() {
            return None;
        }
        if this.is_item() && deeper.is_none() {
            // A list of its own would belong to a key between the two.
            let outer = below.map_or(0, |level| level.indent);
            let is_between = |level: &&Level<'_>| level.key.is_some() && (outer..this.indent).contains(&level.indent);
            let is_first =
                levels.iter().rev().find(is_between).is_some_and(|level| below.is_none() || level.indent > outer);
            let above = levels.iter().find(|level| level.indent > this.indent);
            if let (true, Some(Level { key: Some(key), line, .. })) = (is_first, above) {
                let message =
                    format!("an item of a list begins here, but `{key}` above it, in line {line}, is in no item");
                return self.hint(message, "begin what stands above with a dash, too");
            }
        }
        let ways: Vec<_> =
            [deeper, below].into_iter().flatten().map(|level| format!("by {}", as_level(level))).collect();
        if ways.is_empty() {
            return None;
        }
        let (what, nowhere) =
            if this.is_item() { ("item", "no list above has its items") } else { ("key", "no key above stands") };
        self.hint(
            format!("this {what} is indented by {}, and {nowhere} there", spaces(this.indent)),
            format!("indent it {}", ways.join(", or ")),
        )
    }
}

/// `-name` as `- name`: what is written without the space is the name of a key, or a text.
fn without_dash_space(text: &str, at: Mark) -> Option<Hint> {
    let meant = text.strip_prefix('-').filter(|rest| rest.starts_with(|c: char| c.is_alphabetic()))?;
    let message = format!("a space is missing behind the dash of `{}`", shortened(text));
    Some(Hint { at, message, help: format!("write `- {}`", shortened(meant)) })
}

fn spaces(count: usize) -> String {
    match count {
        1 => "1 space".to_owned(),
        count => format!("{count} spaces"),
    }
}

/// `4 spaces, like `name` in line 2`
fn as_level(level: &Level<'_>) -> String {
    match level.key {
        Some(key) => format!("{}, like `{key}` in line {}", spaces(level.indent), level.line),
        None => format!("{}, like the item in line {}", spaces(level.indent), level.line),
    }
}

/// `labels` as `labels:`, and `name a` as `name: a`.
fn with_colon(text: &str) -> String {
    match text.split_once(' ') {
        Some((key, value)) => format!("{key}: {}", shortened(value.trim_start().trim_start_matches('=').trim_start())),
        None => format!("{}:", shortened(text)),
    }
}
