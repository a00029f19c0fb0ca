//! What is on the screen: changed by keys and by data, apart from both. Nothing here waits or does anything; what is to be done
//! besides is what [`State::key`] returns, and what is to be fetched is [`State::wish`].

use nodepool_common::{
    explain::{Subject, Verdict},
    model::Timestamp,
};
use ratatui_crossterm::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::rows::{Cell, Row, View};

/// A filter is not longer.
const FILTER: usize = 200;

/// What has come, at one look.
#[derive(Debug, Default)]
pub struct Seen {
    /// When it was so.
    pub at: Timestamp,
    /// Who says so, on one line.
    pub source: String,
    /// Whether no launcher has answered.
    pub is_alone: bool,
    /// How many nodes and requests there are, by their states.
    pub counts: Vec<String>,
    /// Launchers that have not answered, each with why.
    pub silent: Vec<String>,
    /// The gravest thing that needs somebody, and how many more there are.
    pub attention: Option<(Verdict, String, usize)>,
    /// The rows of some views, or why there are none.
    pub rows: Vec<(View, Result<Vec<Row>, String>)>,
}

/// What is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// For this view.
    pub view: ViewNumber,
    /// What is to be explained.
    pub details: Option<Subject>,
    /// Another number: at once.
    pub turn: u64,
}

/// A view, by its number.
pub type ViewNumber = usize;

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The screen is to be drawn.
    Draw,
    /// It is to be drawn anew, whatever stands on it.
    Redraw,
    /// The program is to be stopped until it is continued.
    Suspend,
    /// The end.
    Quit,
}

/// One view.
#[derive(Debug, Default)]
pub struct Pane {
    /// What there is; `None`: it has not come yet.
    pub rows: Option<Result<Vec<Row>, String>>,
    /// Which rows are shown, in their order.
    pub shown: Vec<usize>,
    /// Which of the shown ones is selected.
    pub selected: usize,
    /// The first one on the screen.
    pub top: usize,
    /// Only rows with this.
    pub filter: String,
    /// The column by which they are ordered; `None`: as they came.
    pub sort: Option<usize>,
    /// The last one first.
    pub is_reverse: bool,
}

impl Pane {
    fn all(&self) -> &[Row] {
        match &self.rows {
            Some(Ok(rows)) => rows,
            _ => &[],
        }
    }

    /// The shown row at a place.
    pub fn row(&self, at: usize) -> Option<&Row> {
        self.all().get(*self.shown.get(at)?)
    }

    /// How many there are without the filter.
    pub fn count(&self) -> Option<usize> {
        self.rows.as_ref().map(|_| self.all().len())
    }

    fn take(&mut self, rows: Result<Vec<Row>, String>) {
        // Of what cannot be read now, the last one stays.
        if rows.is_err() && matches!(self.rows, Some(Ok(_))) {
            return;
        }
        // Who has not gone down looks at what is first.
        let selected = self.row(self.selected).filter(|_| self.selected > 0).map(|row| row.key.clone());
        self.rows = Some(rows);
        self.arrange(selected.as_deref());
    }

    /// Applies filter and order; the row of that key stays selected.
    fn arrange(&mut self, selected: Option<&str>) {
        let wanted = self.filter.to_lowercase();
        let (rows, sort) = (self.all(), self.sort);
        let mut shown: Vec<usize> = (0..rows.len()).filter(|at| rows[*at].haystack.contains(&wanted)).collect();
        if let Some(column) = sort {
            shown.sort_by(|a, b| order(rows[*a].cells.get(column), rows[*b].cells.get(column)));
        }
        if self.is_reverse {
            shown.reverse();
        }
        let again = selected.and_then(|key| shown.iter().position(|at| rows[*at].key == key));
        self.selected = again.unwrap_or(self.selected).min(shown.len().saturating_sub(1));
        self.shown = shown;
    }

    fn rearrange(&mut self) {
        let selected = self.row(self.selected).map(|row| row.key.clone());
        self.arrange(selected.as_deref());
    }

    fn go(&mut self, to: usize) {
        self.selected = to.min(self.shown.len().saturating_sub(1));
    }
}

fn order(a: Option<&Cell>, b: Option<&Cell>) -> std::cmp::Ordering {
    match (a, b) {
        (Some(Cell::Text(a)), Some(Cell::Text(b))) => a.cmp(b),
        (Some(Cell::Number(a, _)), Some(Cell::Number(b, _))) => a.total_cmp(b),
        // The oldest first; what has no age last.
        (Some(Cell::Since(a)), Some(Cell::Since(b))) => {
            a.unwrap_or(f64::INFINITY).total_cmp(&b.unwrap_or(f64::INFINITY))
        }
        (Some(Cell::Bar(a)), Some(Cell::Bar(b))) => {
            let full = |bar: &Option<super::rows::Bar>| bar.as_ref().map_or(0.0, super::rows::Bar::full);
            full(b).total_cmp(&full(a))
        }
        _ => std::cmp::Ordering::Equal,
    }
}

/// One thing, whole.
#[derive(Debug)]
pub struct Details {
    /// What is explained; `None`: there is no more than the row has.
    pub subject: Option<Subject>,
    /// The lines; `None`: they have not come yet.
    pub text: Option<Vec<String>>,
    /// The first line on the screen.
    pub top: usize,
}

/// What is on the screen.
#[derive(Debug, Default)]
pub struct State {
    /// Which view.
    pub view: usize,
    /// Each of them.
    pub panes: [Pane; View::ALL.len()],
    /// One thing that is looked at.
    pub details: Option<Details>,
    /// The first line of the help on the screen, while it is shown.
    pub help: Option<usize>,
    /// Whether a filter is being written.
    pub is_writing: bool,
    /// Since when nothing that comes is shown.
    pub paused: Option<Timestamp>,
    /// The last data, without their rows.
    pub seen: Option<Seen>,
    /// What is wrong with ZooKeeper, and since when.
    pub trouble: Option<(String, Timestamp)>,
    /// The present.
    pub now: Timestamp,
    /// Whether there are colours.
    pub in_colour: bool,
    /// How many rows there is room for.
    pub page: usize,
    /// Rows of details that can be scrolled away.
    pub most_details: usize,
    turn: u64,
}

impl State {
    /// Of an empty screen.
    pub fn new(in_colour: bool, now: Timestamp) -> Self {
        Self { in_colour, now, page: 1, ..Self::default() }
    }

    /// The view that is looked at.
    pub fn pane(&self) -> &Pane {
        &self.panes[self.view]
    }

    fn pane_mut(&mut self) -> &mut Pane {
        &mut self.panes[self.view]
    }

    /// What is to be fetched.
    pub fn wish(&self) -> Wish {
        let details = self.details.as_ref().and_then(|details| details.subject.clone());
        Wish { view: self.view, details, turn: self.turn }
    }

    /// Takes what has come. While it is paused, only what has never been seen.
    pub fn see(&mut self, mut seen: Seen) {
        let is_paused = self.paused.is_some();
        for (view, rows) in std::mem::take(&mut seen.rows) {
            let pane = &mut self.panes[view.index()];
            if !is_paused || pane.rows.is_none() {
                pane.take(rows);
            }
        }
        if !is_paused || self.seen.is_none() {
            self.seen = Some(seen);
        }
    }

    /// Takes an explanation, as lines.
    pub fn explain(&mut self, subject: &Subject, lines: Vec<String>) {
        let is_paused = self.paused.is_some();
        if let Some(details) = &mut self.details
            && details.subject.as_ref() == Some(subject)
            && (details.text.is_none() || !is_paused)
        {
            details.text = Some(lines);
        }
    }

    /// What a key does.
    pub fn key(&mut self, key: KeyEvent) -> Act {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if is_control => return Act::Quit,
            KeyCode::Char('z') if is_control => return Act::Suspend,
            KeyCode::Char('l') if is_control => return Act::Redraw,
            _ => {}
        }
        if self.is_writing {
            self.write(key.code, is_control);
            return Act::Draw;
        }
        match key.code {
            KeyCode::Char('q') => return Act::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.help = if self.help.is_some() { None } else { Some(0) },
            KeyCode::Char(' ') => self.paused = if self.paused.is_some() { None } else { Some(self.now) },
            KeyCode::Char('r') | KeyCode::F(5) => self.turn += 1,
            KeyCode::Esc => self.back(),
            KeyCode::Enter if self.help.is_none() && self.details.is_none() => self.open(),
            KeyCode::Char(number @ '1'..='6') => self.look_at(usize::from(number as u8 - b'1')),
            KeyCode::Tab => self.look_at((self.view + 1) % View::ALL.len()),
            KeyCode::BackTab => self.look_at((self.view + View::ALL.len() - 1) % View::ALL.len()),
            KeyCode::Char('/') => {
                (self.help, self.details) = (None, None);
                self.is_writing = true;
            }
            KeyCode::Char('s') => self.sort(),
            KeyCode::Char('S') => {
                self.pane_mut().is_reverse ^= true;
                self.pane_mut().rearrange();
            }
            code => self.move_by(code, is_control),
        }
        Act::Draw
    }

    fn back(&mut self) {
        if self.help.take().is_none() && self.details.take().is_none() {
            self.pane_mut().filter.clear();
            self.pane_mut().rearrange();
        }
    }

    fn open(&mut self) {
        let pane = self.pane();
        let Some(row) = pane.row(pane.selected) else { return };
        let text = if row.subject.is_some() { None } else { Some(vec![row.why.clone()]) };
        self.details = Some(Details { subject: row.subject.clone(), text, top: 0 });
    }

    fn look_at(&mut self, view: usize) {
        (self.view, self.help, self.details) = (view, None, None);
    }

    /// By the next column that is on the screen or not, after the last one as they came.
    fn sort(&mut self) {
        let columns = View::ALL[self.view].columns().len();
        let pane = self.pane_mut();
        pane.sort = match pane.sort {
            None => Some(0),
            Some(column) if column + 1 < columns => Some(column + 1),
            Some(_) => None,
        };
        pane.rearrange();
    }

    fn write(&mut self, code: KeyCode, is_control: bool) {
        let pane = &mut self.panes[self.view];
        match code {
            KeyCode::Enter => self.is_writing = false,
            KeyCode::Esc => {
                self.is_writing = false;
                pane.filter.clear();
            }
            KeyCode::Backspace => drop(pane.filter.pop()),
            KeyCode::Char('u' | 'w') if is_control => pane.filter.clear(),
            KeyCode::Char(character) if !is_control && pane.filter.len() < FILTER => {
                pane.filter += &super::clean::line(&character.to_string());
            }
            _ => return,
        }
        pane.rearrange();
    }

    fn move_by(&mut self, code: KeyCode, is_control: bool) {
        let page = self.page.max(1);
        let (at, most) = match (&self.help, &self.details) {
            (Some(top), _) => (*top, self.most_details),
            (None, Some(details)) => (details.top, self.most_details),
            (None, None) => (self.pane().selected, self.pane().shown.len().saturating_sub(1)),
        };
        let to = match code {
            KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => at + 1,
            KeyCode::PageUp => at.saturating_sub(page),
            KeyCode::PageDown => at + page,
            KeyCode::Char('b') if is_control => at.saturating_sub(page),
            KeyCode::Char('f') if is_control => at + page,
            KeyCode::Char('u') if is_control => at.saturating_sub(page.div_ceil(2)),
            KeyCode::Char('d') if is_control => at + page.div_ceil(2),
            KeyCode::Home | KeyCode::Char('g') => 0,
            KeyCode::End | KeyCode::Char('G') => most,
            _ => return,
        };
        let to = to.min(most);
        match (&mut self.help, &mut self.details) {
            (Some(top), _) => *top = to,
            (None, Some(details)) => details.top = to,
            (None, None) => self.pane_mut().go(to),
        }
    }

    /// Scrolls so that what is selected is on a screen with room for `page` rows, and what is scrolled of details for `most` of them.
    pub fn fit(&mut self, page: usize, most: usize) {
        (self.page, self.most_details) = (page, most);
        if let Some(top) = &mut self.help {
            *top = (*top).min(most);
        } else if let Some(details) = &mut self.details {
            details.top = details.top.min(most);
        }
        let view = self.pane_mut();
        view.top = view.top.min(view.selected).max((view.selected + 1).saturating_sub(page));
        // No empty lines at the end where there are rows before.
        view.top = view.top.min(view.shown.len().saturating_sub(page));
    }
}
