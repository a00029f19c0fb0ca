//! The screen, as it follows from the state and its size. Only the rows that are on it are laid out.
//!
//! From the top: who says what and when; how many there are; what needs somebody; what is wrong; the views; the table; the sentence of
//! the selected row, whole; the keys. On a low screen what comes first is left out, but for who says it and what is wrong.

use std::fmt::Write as _;

use nodepool_common::{
    explain::{Verdict, duration},
    model::Timestamp,
    sys::clock,
};
use ratatui_core::{
    buffer::Buffer,
    layout::Rect,
    style::{Color, Modifier, Style},
};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::{
    clean,
    rows::{Bar, Cell, Column, Row, View},
    state::State,
};
use crate::output;

const HELP: &str = "\
1-6, Tab        the views: requests, providers, nodes, images, activity, attention
up down j k     one row; PgUp PgDn ^B ^F a page, ^U ^D half of one; g G the first, the last
Enter           details of the selected row: what nodepool explain says; Esc: back
/               only rows with these letters; Enter keeps the filter, Esc ends it
s               order by the next column, then as it was; S the other way round
space           pause: what comes is not shown; again: go on
r               look at once (else every 2 seconds; every 5 where no launcher answers)
^L              draw the screen anew
^Z              suspend; fg goes on
q, ^C           end
?, h            this help

WAIT waits for what comes by itself; ACT: a person of the site has to do something;
CHANGE: it will never be served as it is. In bars | is ours, o others' in the project; 10+4 of 20: the same in numbers.";

const KEYS: &str = " q end  ? help  / filter  Enter details  s sort  space pause  1-6 views";
/// Below the table, lines for the selected row.
const LINES: u16 = 3;
/// Below it, quotas of the selected provider.
const BARS: usize = 4;

/// Where everything is.
struct Plan {
    head: Vec<(String, Style)>,
    table: Rect,
    below: Rect,
    foot: Rect,
}

/// Makes the state fit the size, and draws it.
pub fn draw(state: &mut State, buffer: &mut Buffer) {
    let area = buffer.area;
    if area.width == 0 || area.height == 0 {
        return;
    }
    let plan = plan(state, area);
    let lines = whole(state, plan.table.width);
    // The line of the titles.
    let page = usize::from(plan.table.height.saturating_sub(u16::from(lines.is_none())));
    let most = lines.as_ref().map_or(0, |lines| lines.len().saturating_sub(page));
    state.fit(page, most);
    let paint = Paint { in_colour: state.in_colour };
    for (at, (text, style)) in (area.y..).zip(&plan.head) {
        put(buffer, Rect { y: at, height: 1, ..area }, text, *style);
    }
    match lines {
        Some(lines) => {
            let top = state.help.or(state.details.as_ref().map(|details| details.top)).unwrap_or_default();
            for (at, line) in (plan.table.y..plan.table.bottom()).zip(lines.iter().skip(top)) {
                put(buffer, Rect { y: at, height: 1, ..plan.table }, line, Style::new());
            }
        }
        None => table(state, paint, plan.table, buffer),
    }
    below(state, plan.below, buffer);
    foot(state, plan.foot, buffer);
}

/// Help or details, as lines of that width.
fn whole(state: &State, width: u16) -> Option<Vec<String>> {
    if state.help.is_some() {
        return Some(HELP.lines().flat_map(|line| wrap(line, width)).collect());
    }
    let details = state.details.as_ref()?;
    let Some(lines) = &details.text else { return Some(vec!["asking …".to_owned()]) };
    Some(lines.iter().flat_map(|line| wrap(line, width)).collect())
}

/// Whether there is colour.
#[derive(Clone, Copy)]
struct Paint {
    in_colour: bool,
}

impl Paint {
    fn of_state(self, text: &str) -> Style {
        let colour = match output::colour("state", text).filter(|_| self.in_colour) {
            Some(31) => Color::Red,
            Some(32) => Color::Green,
            Some(33) => Color::Yellow,
            Some(35) => Color::Magenta,
            Some(36) => Color::Cyan,
            Some(90) => Color::DarkGray,
            _ => return Style::new(),
        };
        Style::new().fg(colour)
    }

    fn of_verdict(self, verdict: Option<Verdict>) -> Style {
        match verdict {
            Some(Verdict::Act | Verdict::Change) if self.in_colour => {
                Style::new().fg(Color::Red).add_modifier(Modifier::BOLD)
            }
            Some(Verdict::Act | Verdict::Change) => Style::new().add_modifier(Modifier::BOLD),
            Some(Verdict::Wait) if self.in_colour => Style::new().fg(Color::Yellow),
            _ => Style::new(),
        }
    }
}

const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

fn plan(state: &State, area: Rect) -> Plan {
    let paint = Paint { in_colour: state.in_colour };
    let height = area.height;
    let mut head = vec![(source(state), BOLD)];
    if let Some((what, since)) = &state.trouble {
        let line = format!(" ZooKeeper, since {}: {what}", age(*since, state.now));
        head.push((line, paint.of_verdict(Some(Verdict::Act)).add_modifier(Modifier::REVERSED)));
    }
    if let Some(seen) = &state.seen {
        if height >= 14 {
            head.extend(seen.counts.iter().map(|line| (format!(" {line}"), Style::new())));
        }
        if height >= 10
            && let Some((verdict, text, more)) = &seen.attention
        {
            let more = if *more == 0 { "6: more".to_owned() } else { format!("6: {more} others") };
            let room = usize::from(area.width).saturating_sub(more.len() + 4);
            head.push((format!(" {} ({more})", cut(text, room)), paint.of_verdict(Some(*verdict))));
        }
        if height >= 20 && !seen.is_alone {
            head.extend(seen.silent.iter().take(2).map(|line| (format!(" {line}"), BOLD)));
        }
    }
    if height >= 4 {
        head.push((views(state, area.width), Style::new()));
    }
    head.truncate(usize::from(height));
    let used = u16::try_from(head.len()).unwrap_or(height);
    let foot = u16::from(height > used + 1);
    let left = height.saturating_sub(used + foot);
    let wanted = match selected(state) {
        Some(row) if left >= 8 => LINES + u16::try_from(row.bars.len().min(BARS)).unwrap_or_default(),
        _ => 0,
    };
    let below = wanted.min(left / 2);
    let at = |y: u16, height: u16| Rect { x: area.x, y: area.y + y, width: area.width, height };
    Plan { head, table: at(used, left - below), below: at(used + left - below, below), foot: at(height - foot, foot) }
}

/// The row of which there is more below the table.
fn selected(state: &State) -> Option<&Row> {
    if state.help.is_some() || state.details.is_some() {
        return None;
    }
    state.pane().row(state.pane().selected).filter(|row| !row.why.is_empty() || !row.bars.is_empty())
}

fn moment(at: Timestamp, now: Timestamp) -> String {
    #[allow(clippy::cast_possible_truncation)] // seconds since the epoch
    let utc = clock::utc(at as i64);
    format!("{utc} ({} ago)", age(at, now))
}

fn age(at: Timestamp, now: Timestamp) -> String {
    clock::since(at, now).map_or_else(|| "-".to_owned(), |age| duration(age.as_secs()))
}

fn source(state: &State) -> String {
    let mut line = match &state.seen {
        Some(seen) => format!(" nodepool top: {}, {}", seen.source, moment(seen.at, state.now)),
        None => " nodepool top: asking …".to_owned(),
    };
    if let Some(since) = state.paused {
        // At the left, where there is always room for it.
        line = format!(" PAUSED {}{line}", age(since, state.now));
    }
    line
}

fn views(state: &State, width: u16) -> String {
    let mut line = String::new();
    for (at, view) in View::ALL.into_iter().enumerate() {
        let (open, close) = if at == state.view { ('[', ']') } else { (' ', ' ') };
        let count = state.panes[at].count().map(|count| format!(" {count}")).unwrap_or_default();
        let _ = match width {
            0..70 if at != state.view => write!(line, "{open}{}{close}", at + 1),
            0..100 => write!(line, "{open}{} {}{close}", at + 1, view.title()),
            _ => write!(line, "{open}{} {}{count}{close}", at + 1, view.title()),
        };
    }
    line
}

/// The columns for which there is room, with their widths.
fn columns(view: View, width: u16) -> Vec<(usize, &'static Column, u16)> {
    let all = view.columns().iter().enumerate().filter(|(_, column)| column.from <= width);
    let mut left = width;
    let mut columns = Vec::new();
    for (at, column) in all {
        let own = if column.width == 0 { left } else { column.width.min(left) };
        columns.push((at, column, own));
        left = left.saturating_sub(own + 1);
    }
    columns
}

fn table(state: &State, paint: Paint, area: Rect, buffer: &mut Buffer) {
    if area.height == 0 {
        return;
    }
    let (view, pane) = (View::ALL[state.view], state.pane());
    let columns = columns(view, area.width);
    put(buffer, Rect { height: 1, ..area }, "", BOLD.add_modifier(Modifier::UNDERLINED));
    let mut x = area.x;
    for (at, column, width) in &columns {
        let mark = match (pane.sort == Some(*at), pane.is_reverse) {
            (true, true) => "^",
            (true, false) => "v",
            (false, _) => "",
        };
        let title = format!("{}{mark}", column.title);
        set(buffer, x, area.y, &title, *width, BOLD.add_modifier(Modifier::UNDERLINED));
        x += width + 1;
    }
    let rest = Rect { y: area.y + 1, height: area.height - 1, ..area };
    let note = match &pane.rows {
        None => Some("asking …".to_owned()),
        Some(Err(why)) => Some(why.clone()),
        Some(Ok(rows)) if rows.is_empty() => Some("none".to_owned()),
        Some(Ok(_)) if pane.shown.is_empty() => Some(format!("none of {} has {:?}", count(pane.count()), pane.filter)),
        Some(Ok(_)) => None,
    };
    if let Some(note) = note {
        for (y, line) in (rest.y..rest.bottom()).zip(wrap(&note, rest.width)) {
            put(buffer, Rect { y, height: 1, ..rest }, &line, Style::new());
        }
        return;
    }
    for (y, at) in (rest.y..rest.bottom()).zip(pane.top..) {
        let Some(row) = pane.row(at) else { break };
        let line = Rect { y, height: 1, ..rest };
        let over = if at == pane.selected { REVERSED } else { Style::new() };
        if at == pane.selected {
            put(buffer, line, "", over);
        }
        let mut x = line.x;
        for (index, column, width) in &columns {
            if let Some(cell) = row.cells.get(*index) {
                let style = style(paint, row, column, cell).patch(over);
                set(buffer, x, y, &text(cell, *width, state.now), *width, style);
            }
            x += width + 1;
        }
    }
}

fn count(count: Option<usize>) -> usize {
    count.unwrap_or_default()
}

fn style(paint: Paint, row: &Row, column: &Column, cell: &Cell) -> Style {
    match cell {
        Cell::Text(text) if column.title == "STATE" => paint.of_state(text),
        Cell::Text(_) if column.width == 0 => paint.of_verdict(row.verdict),
        _ => Style::new(),
    }
}

fn text(cell: &Cell, width: u16, now: Timestamp) -> String {
    match cell {
        Cell::Text(text) => cut(text, usize::from(width)),
        Cell::Number(_, text) => format!("{text:>width$}", width = usize::from(width)),
        Cell::Since(at) => {
            format!("{:>width$}", at.map(|at| age(at, now)).unwrap_or_default(), width = usize::from(width))
        }
        Cell::Bar(None) => String::new(),
        Cell::Bar(Some(shown)) => {
            let (name, room) = (cut(&shown.name, 9), usize::from(width));
            let room = room.saturating_sub(name.width() + 1);
            format!("{name} {}", bar(shown, room))
        }
    }
}

/// `[||||oo     50%]`, in so many cells; without a limit what is used.
fn bar(shown: &Bar, width: usize) -> String {
    let Some(limit) = shown.limit else { return format!("{} of any", shown.used) };
    let room = width.saturating_sub(2);
    if room == 0 {
        return String::new();
    }
    let cells = |part: f64| {
        let part = if limit > 0.0 { part / limit } else { f64::from(u8::from(part > 0.0)) };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        // cells of a line
        let cells = (part.clamp(0.0, 1.0) * room as f64).round() as usize;
        cells.min(room)
    };
    let (ours, all) = (cells(shown.used), cells(shown.used + shown.others));
    let mut inside: Vec<char> = (0..room)
        .map(|at| match at {
            _ if at < ours => '|',
            _ if at < all => 'o',
            _ => ' ',
        })
        .collect();
    let part = format!("{:.0}%", (shown.full() * 100.0).min(999.0));
    if part.len() < room {
        let from = room - part.len();
        inside.splice(from.., part.chars());
    }
    format!("[{}]", inside.into_iter().collect::<String>())
}

/// What there is of the selected row beside the table.
fn below(state: &State, area: Rect, buffer: &mut Buffer) {
    let Some(row) = selected(state).filter(|_| area.height > 0) else { return };
    let bars = row.bars.iter().take(BARS).map(|shown| {
        let numbers = match shown.limit {
            Some(limit) if shown.others > 0.0 => {
                format!("{}+{} of {limit}", shown.used, shown.others)
            }
            Some(limit) => format!("{} of {limit}", shown.used),
            None => format!("{}, no limit", shown.used),
        };
        let line = shown.limit.map(|_| bar(shown, 28)).unwrap_or_default();
        format!(" {:<20} {line:<28} {numbers}", cut(&shown.name, 20))
    });
    let mut why = wrap(&format!(" {}", row.why), area.width);
    let most = usize::from(LINES.min(area.height));
    if why.len() > most {
        why.truncate(most);
        if let Some(last) = why.last_mut() {
            *last = cut(&format!("{last} … (Enter: all of it)"), usize::from(area.width));
        }
    }
    for (y, line) in (area.y..area.bottom()).zip(why.into_iter().chain(bars)) {
        put(buffer, Rect { y, height: 1, ..area }, &line, Style::new());
    }
}

fn foot(state: &State, area: Rect, buffer: &mut Buffer) {
    if area.height == 0 {
        return;
    }
    let pane = state.pane();
    let line = if state.is_writing {
        format!(" /{}_  {} of {}", pane.filter, pane.shown.len(), count(pane.count()))
    } else if state.help.is_some() || state.details.is_some() {
        " Esc back  up/down scroll  q end".to_owned()
    } else if pane.filter.is_empty() {
        KEYS.to_owned()
    } else {
        format!(" only {:?}: {} of {}; Esc: all", pane.filter, pane.shown.len(), count(pane.count()))
    };
    put(buffer, area, &line, REVERSED);
}

/// A whole line of the screen.
fn put(buffer: &mut Buffer, line: Rect, text: &str, style: Style) {
    if line.width == 0 || line.y >= buffer.area.bottom() {
        return;
    }
    buffer.set_style(line, style);
    set(buffer, line.x, line.y, text, line.width, style);
}

fn set(buffer: &mut Buffer, x: u16, y: u16, text: &str, width: u16, style: Style) {
    if x < buffer.area.right() && y < buffer.area.bottom() {
        // Most is clean already, so that its width is known; here nothing else gets past.
        buffer.set_stringn(x, y, clean::line(text), usize::from(width), style);
    }
}

/// As much of a text as has room, with a sign where something is left out.
fn cut(text: &str, width: usize) -> String {
    if text.len() <= width || text.width() <= width {
        return text.to_owned();
    }
    let (mut kept, mut used) = (String::new(), 0);
    for character in text.chars() {
        let own = character.width().unwrap_or_default();
        if used + own + 1 > width {
            break;
        }
        used += own;
        kept.push(character);
    }
    kept.push('…');
    kept
}

/// A line as lines of that width, broken between words; those after the first begin as far in as its text does.
fn wrap(line: &str, width: u16) -> Vec<String> {
    let width = usize::from(width.max(1));
    if line.width() <= width {
        return vec![line.to_owned()];
    }
    let indent = line.len() - line.trim_start().len();
    // Below the value of `  name:   value`, where that leaves room for it.
    let value = line.find(':').map_or(indent, |colon| {
        let rest = &line[colon + 1..];
        let gap = rest.len() - rest.trim_start().len();
        if gap >= 2 || (indent >= 2 && gap >= 1 && colon + 1 >= 20) { colon + 1 + gap } else { indent }
    });
    let indent = if value * 2 < width { value } else { 0 };
    let mut lines = Vec::new();
    let (mut current, mut used, mut is_bare) = (line[..line.len() - line.trim_start().len()].to_owned(), 0, true);
    used += current.width();
    for word in line.trim_start().split_inclusive(' ') {
        if used + word.trim_end().width() > width && !is_bare {
            lines.push(std::mem::replace(&mut current, " ".repeat(indent)));
            (used, is_bare) = (indent, true);
        }
        // One that is longer than a line.
        for character in word.chars() {
            let own = character.width().unwrap_or_default();
            if used + own > width && character != ' ' {
                lines.push(std::mem::replace(&mut current, " ".repeat(indent)));
                used = indent;
            }
            current.push(character);
            used += own;
            is_bare = false;
        }
    }
    lines.push(current);
    lines
}
