//! Explaining whatever it is, and what is said where there is nothing to explain.

use super::{
    Asked, Explanation, Kind, Subject, image::of_image, label::of_label, node::of_node, provider::of_provider,
    request::of_request,
};
use crate::model::{Records, Timestamp};

/// Explains something by the records, and by what launchers say of it ([`super::ask`]). `None`: there is no trace of it.
pub fn explain(records: &Records, subject: &Subject, asked: &Asked, now: Timestamp) -> Option<Explanation> {
    match subject {
        Subject::Request(id) => of_request(records, id, asked, now),
        Subject::Node(id) => of_node(records, id, now),
        Subject::Label(name) => of_label(records, name, asked, now),
        Subject::Image(name) => of_image(records, name, asked, now),
        Subject::Provider(name) => of_provider(records, name, asked),
    }
}

/// The exit code of `nodepool explain` for several things: that of the gravest. `None`: there are none.
pub fn gravest<'a>(explanations: impl IntoIterator<Item = &'a Explanation>) -> Option<u8> {
    explanations.into_iter().map(Explanation::exit_code).max()
}

/// That nothing which is explained can have an id.
pub fn no_id(id: &str, kind: Option<Kind>) -> String {
    match kind {
        Some(kind) => format!("{id} can be the id or name of no {}", kind.as_str()),
        None => format!("{id} can be no id of a request (200-0000000123) or a node (0000000123), and no name"),
    }
}

/// That there is no trace of what has an id.
pub fn no_trace(id: &str, kind: Option<Kind>) -> String {
    let first = Subject::of(id, kind).into_iter().next();
    match first.as_ref().map(Subject::kind) {
        Some(Kind::Request) => format!(
            "there is no trace of request {id}: it never was, or it is done and its record deleted, which Zuul does at once"
        ),
        Some(Kind::Node) => format!("there is no trace of node {id}: it never was, or it was deleted"),
        _ => {
            let kinds = kind.map_or("label, image or provider", Kind::as_str);
            format!(
                "there is no trace of a {kinds} of the name {id}: no launcher that answers has it, and no record speaks of it"
            )
        }
    }
}
