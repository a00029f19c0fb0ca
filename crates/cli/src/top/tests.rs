//! The screen in several sizes, with much and with hostile data.

use std::time::Instant;

use nodepool_common::{
    explain::Verdict,
    overview::{Amount, Attention, ImageSeen, OpenRequest, Overview, PoolSeen, ProviderSeen, lists::List},
};
use ratatui_core::{
    backend::TestBackend,
    buffer::Buffer,
    layout::{Position, Rect},
    style::{Color, Modifier},
    terminal::Terminal,
};
use ratatui_crossterm::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::json;

use super::{
    draw::draw,
    rows::{self, View},
    state::{Act, Seen, State},
};

const NOW: f64 = 1_760_000_000.0;
const WHY: &str = "Pool cloud-main has no room: 4 cores needed, 1 there, of 200 that the cloud allows us";

fn overview() -> Overview {
    let provider = ProviderSeen {
        name: "cloud".to_owned(),
        verdict: Verdict::Wait,
        code: "full".to_owned(),
        sentence: "1 of its pools has no room".to_owned(),
        since: Some(NOW - 60.0),
        quota: vec![
            Amount { resource: "cores".to_owned(), limit: Some(200.0), used: 150.0, others: 49.0 },
            Amount { resource: "ram".to_owned(), limit: None, used: 64.0, others: 0.0 },
        ],
        launching: 2,
        max_concurrency: Some(10),
        pools: vec![PoolSeen {
            name: "main".to_owned(),
            hostname: "host".to_owned(),
            is_paused: true,
            out_of_service: None,
            limits: vec![Amount { resource: "instances".to_owned(), limit: Some(50.0), used: 10.0, others: 0.0 }],
            waiting: 3,
        }],
    };
    let image = ImageSeen {
        name: "noble".to_owned(),
        verdict: Verdict::Act,
        code: "build-failed".to_owned(),
        sentence: "Its newest build 0b1 has failed: mirror is down".to_owned(),
        since: None,
        built: Some(NOW - 86_400.0),
        uploads: 1,
    };
    let needs = Attention {
        kind: "image".to_owned(),
        ids: vec!["noble".to_owned()],
        count: 1,
        verdict: Verdict::Act,
        code: image.code.clone(),
        sentence: image.sentence.clone(),
        since: None,
        ended_by: Some("a build that succeeds".to_owned()),
    };
    Overview {
        oldest: vec![open("300-0000000007", WHY)],
        providers: vec![provider],
        images: vec![image],
        attention: vec![needs],
        ..Overview::default()
    }
}

fn open(id: &str, sentence: &str) -> OpenRequest {
    OpenRequest {
        id: id.to_owned(),
        asked: NOW - 200.0,
        labels: vec!["large".to_owned()],
        requestor: Some("zuul".to_owned()),
        before: None,
        verdict: Verdict::Wait,
        code: "no-room".to_owned(),
        sentence: sentence.to_owned(),
        since: Some(NOW - 100.0),
    }
}

fn requests(number: usize) -> List {
    let row = |at: usize| {
        let state = if at.is_multiple_of(5) { "fulfilled" } else { "requested" };
        let id = format!("300-{at:010}");
        json!([id, state, ["large"], "zuul", 0, NOW - 200.0, "behind-others", format!("tenant-{}", at % 7), []])
    };
    let columns = ["id", "state", "labels", "requestor", "priority", "asked", "waits_for", "tenant", "nodes"];
    List { columns: columns.map(Into::into).into(), rows: (1..=number).map(row).collect() }
}

fn nodes(number: usize) -> List {
    let row = |at: usize| {
        json!([format!("{at:010}"), "in-use", ["large"], "cloud", "main", NOW - 4000.0, true, null, "192.0.2.1", "hi"])
    };
    let columns = ["id", "state", "labels", "provider", "pool", "since", "locked", "request", "address", "comment"];
    List { columns: columns.map(Into::into).into(), rows: (1..=number).map(row).collect() }
}

fn seen(overview: &Overview, of_requests: &List, of_nodes: &List) -> Seen {
    let attention = overview.attention.first();
    Seen {
        at: NOW - 1.0,
        source: "launcher on host".to_owned(),
        counts: vec!["requests: 3 requested".to_owned(), "nodes:    2 in-use".to_owned()],
        attention: attention.map(|first| (first.verdict, format!("image noble: ACT: {}", first.sentence), 0)),
        rows: vec![
            (View::Requests, Ok(rows::requests(of_requests, overview))),
            (View::Providers, Ok(rows::providers(overview))),
            (View::Nodes, Ok(rows::nodes(of_nodes))),
            (View::Images, Ok(rows::images(overview))),
            (View::Attention, Ok(rows::attention(overview))),
        ],
        ..Seen::default()
    }
}

fn state(number: usize) -> State {
    let mut state = State::new(true, NOW);
    state.see(seen(&overview(), &requests(number), &nodes(number)));
    state
}

fn screen(state: &mut State, width: u16, height: u16) -> Buffer {
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    draw(state, &mut buffer);
    buffer
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let line = |y| (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
    (0..buffer.area.height).map(line).collect()
}

fn shown(state: &mut State, width: u16, height: u16) -> String {
    lines(&screen(state, width, height)).join("\n")
}

fn press(state: &mut State, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\t' => KeyCode::Tab,
            key => KeyCode::Char(key),
        };
        assert_eq!(state.key(KeyEvent::from(code)), Act::Draw, "{key:?}");
    }
}

fn control(state: &mut State, key: char) -> Act {
    state.key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::CONTROL))
}

#[test]
fn at_80x24_a_request_is_there_with_its_sentence_and_the_keys() {
    let mut state = state(20);
    // That which is explained.
    press(&mut state, "jjjjj");
    let text = shown(&mut state, 80, 24);
    for part in [
        "nodepool top: launcher on host, 2025-10-09 08:53:19 UTC (1 s ago)",
        "requests: 3 requested",
        "image noble: ACT: Its newest build",
        "[1 Requests]",
        "ID             STATE     AGE         LABELS       WHY",
        "300-0000000007 requested       3 min large        WAIT: Pool cloud-main has no …",
        "behind-others",
        "? help",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    // Below the table whole, in two lines.
    let whole: Vec<&str> = text.split_whitespace().collect();
    assert!(whole.join(" ").contains(&format!("WAIT: {WHY}")), "{text}");
}

#[test]
fn each_view_is_drawn_in_each_size() {
    for (width, height) in [(80, 24), (40, 10), (200, 60), (1, 1), (0, 0), (3, 2), (300, 3), (7, 100), (1000, 5)] {
        let mut state = state(100);
        state.trouble = Some(("127.0.0.1:2181: connection refused".to_owned(), NOW - 30.0));
        for view in "123456?\u{1b}".chars().chain("/large\n1\n\u{1b}".chars()) {
            press(&mut state, &view.to_string());
            let text = shown(&mut state, width, height);
            assert_eq!(text.lines().count(), usize::from(if width == 0 { 0 } else { height }), "{width}x{height}");
            if width >= 40 && height >= 3 {
                assert!(text.contains("nodepool top: launcher on host"), "{text}");
                assert!(text.contains("ZooKeeper, since 30 s: 127.0.0.1:"), "{text}");
            }
        }
    }
    let mut state = state(100);
    let text = shown(&mut state, 40, 10);
    assert!(text.contains("300-0000000001") && text.contains("behind-others"), "{text}");
    let text = shown(&mut state, 200, 60);
    assert!(text.contains("tenant-1") && text.contains("[1 Requests 100]"), "{text}");
}

#[test]
fn a_frame_with_thousands_of_rows_is_made_at_once() {
    let mut state = State::new(true, NOW);
    state.see(seen(&overview(), &requests(10_000), &nodes(6_000)));
    for keys in ["1", "G", "kk", "3", "G", "1ss"] {
        press(&mut state, keys);
        let mut terminal = Terminal::new(TestBackend::new(200, 60)).unwrap();
        // A busy machine may take its time once.
        let fastest = (0..5).map(|_| {
            let begun = Instant::now();
            terminal.draw(|frame| draw(&mut state, frame.buffer_mut())).unwrap();
            begun.elapsed()
        });
        let fastest = fastest.min().unwrap();
        println!("{keys}: {fastest:?}");
        assert!(fastest.as_millis() < 20, "{keys}: {fastest:?}");
    }
    press(&mut state, "1/300-0000009999\n");
    assert_eq!(state.pane().shown.len(), 1);
}

#[test]
fn keys_move_filter_sort_and_open() {
    let mut state = state(50);
    screen(&mut state, 80, 24);
    let at = |state: &State| state.pane().row(state.pane().selected).unwrap().key.clone();
    assert_eq!(at(&state), "300-0000000001", "those that are not done come first");
    press(&mut state, "jjjk");
    assert_eq!(at(&state), "300-0000000003");
    press(&mut state, "G");
    assert_eq!(at(&state), "300-0000000050");
    let text = shown(&mut state, 80, 24);
    assert!(text.contains("300-0000000050") && !text.contains("300-0000000001"), "{text}");
    press(&mut state, "g/TENANT-3");
    let text = shown(&mut state, 80, 24);
    assert!(text.contains("/TENANT-3_  7 of 50"), "{text}");
    // Letters are not keys meanwhile, and Enter keeps it.
    press(&mut state, "q\n");
    assert!(shown(&mut state, 80, 24).contains("none of 50 has \"TENANT-3q\""));
    press(&mut state, "\u{1b}sS");
    assert_eq!(at(&state), "300-0000000001", "what is selected stays so");
    let text = shown(&mut state, 80, 24);
    assert!(text.contains("ID^"), "{text}");
    press(&mut state, "g");
    assert_eq!(at(&state), "300-0000000050");
    press(&mut state, "\n");
    assert_eq!(state.wish().details.as_ref().map(|subject| subject.id().to_owned()), Some(at(&state)));
    assert!(shown(&mut state, 80, 24).contains("asking …"));
    let subject = state.wish().details.unwrap();
    state.explain(&subject, vec!["request 300-0000000050: WAIT: it waits.".to_owned()]);
    assert!(shown(&mut state, 80, 24).contains("request 300-0000000050: WAIT: it waits."));
    press(&mut state, "\u{1b}\t");
    assert_eq!((state.view, state.wish().details), (1, None));
    let text = shown(&mut state, 80, 24);
    assert!(text.contains("cores [||||||||||||100%]") && text.contains("100%] 150+49 of 200"), "{text}");
    assert!(text.contains("main instances") && text.contains("10 of 50"), "{text}");
    assert_eq!(state.key(KeyEvent::from(KeyCode::Char('q'))), Act::Quit);
    assert_eq!([control(&mut state, 'c'), control(&mut state, 'z')], [Act::Quit, Act::Suspend]);
}

#[test]
fn what_is_selected_stays_selected_when_data_come_and_nothing_moves_while_paused() {
    let mut state = state(50);
    press(&mut state, "jjj");
    let first = state.pane().row(3).unwrap().key.clone();
    press(&mut state, " ");
    state.see(seen(&overview(), &requests(3), &nodes(3)));
    assert_eq!(state.pane().count(), Some(50));
    assert!(shown(&mut state, 80, 24).contains("PAUSED"));
    press(&mut state, " ");
    let mut fewer = requests(50);
    fewer.rows.drain(..2);
    state.see(seen(&overview(), &fewer, &nodes(3)));
    let pane = state.pane();
    assert_eq!((pane.selected, pane.row(pane.selected).unwrap().key.clone()), (1, first));
    // An error does not take away what is known.
    state.see(Seen { rows: vec![(View::Requests, Err("no answer".to_owned()))], ..Seen::default() });
    assert_eq!(state.pane().count(), Some(48));
    state.see(seen(&overview(), &requests(0), &nodes(0)));
    assert!(shown(&mut state, 80, 24).contains("none"));
    press(&mut state, "jkG\n");
}

#[test]
fn hostile_texts_reach_no_terminal() {
    let hostile =
        "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}evil\u{200b}\r\n日本語日本語 e\u{301}\u{301}\u{301}\u{301}";
    let mut overview = overview();
    overview.oldest = vec![open("300-0000000001", hostile)];
    overview.images[0].name = hostile.to_owned();
    overview.attention[0].sentence = hostile.to_owned();
    overview.attention[0].ids = vec![hostile.to_owned()];
    overview.providers[0].quota[0].resource = hostile.to_owned();
    let row = json!([hostile, hostile, [hostile], hostile, hostile, NOW, hostile, hostile, hostile, hostile]);
    let of_requests = List { rows: vec![row.clone(), requests(1).rows[0].clone()], ..requests(0) };
    let mut state = State::new(true, NOW);
    state.see(seen(&overview, &of_requests, &List { rows: vec![row], ..nodes(0) }));
    for (width, height) in [(80, 24), (40, 10), (200, 60), (53, 24)] {
        for keys in ["1", "2", "3", "4", "6", "\n", "\u{1b}1/\u{1b}"] {
            press(&mut state, keys);
            for line in lines(&screen(&mut state, width, height)) {
                let is_bad = |c: char| c.is_control() || matches!(c, '\u{202e}' | '\u{200b}');
                assert!(!line.contains(is_bad), "{line:?}");
                assert!(!line.contains("\u{301}\u{301}\u{301}"), "{line:?}");
            }
        }
    }
    press(&mut state, "1");
    assert!(shown(&mut state, 200, 60).contains("·]0;owned··[2J·31m·evil·"));
}

#[test]
fn without_colours_there_are_none() {
    for in_colour in [true, false] {
        let mut state = State::new(in_colour, NOW);
        state.see(seen(&overview(), &requests(20), &nodes(20)));
        let mut coloured = 0;
        for view in ["1", "2", "3", "4", "6"] {
            press(&mut state, view);
            let buffer = screen(&mut state, 80, 24);
            let colours = |cell: &&ratatui_core::buffer::Cell| cell.fg != Color::Reset || cell.bg != Color::Reset;
            coloured += buffer.content.iter().filter(colours).count();
            // What is selected is seen without.
            let is_reversed = |y| buffer[Position::new(0, y)].modifier.contains(Modifier::REVERSED);
            assert!((0..23).any(is_reversed), "{view}");
        }
        assert_eq!(coloured > 0, in_colour);
    }
}
