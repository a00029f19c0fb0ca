//! `/api/v1/history`: what all launchers have done and seen ([`nodepool_common::history`]), the newest first.
//!
//! | parameter | what |
//! |---|---|
//! | `request=ID`, `node=ID`, `label=NAME`, `image=NAME`, `provider=NAME` | what concerns it: of several of one kind any, and of each kind one |
//! | `event=CODE` | what is of this kind, or of one of several |
//! | `since=SECONDS` | from that time on, in seconds since the epoch |
//! | `limit=NUMBER` | so many at most: 100, or up to 1,000 |
//! | `until=SECONDS` | what is before that time: with the answer's `next` the next page |
//! | `alone=true` | of this launcher alone; so launchers and `nodepool history` ask each other |
//! | `before=NUMBER` | with `alone`: what is before the event of that number |
//!
//! Those who ask the same within a second share one answer. Of all launchers a few are made at a time, as one that does not answer
//! is waited for; those of this launcher alone in another line, so that launchers that ask each other do not wait in a circle.

use std::sync::Arc;

use axum::{
    extract::Query as Parameters,
    http::{StatusCode, Uri},
    response::Response,
};
use futures::future::BoxFuture;
use nodepool_common::{
    explain::{Kind, Subject},
    history::{HIGHEST_LIMIT, PAGE, Page, Query},
    model::Timestamp,
    sys::clock::Clock,
};

use super::{
    accept::Format,
    api::{self, error},
    memo::{Line, Memo},
    reply,
};

/// The page.
pub(super) const PATH: &str = PAGE;
/// Things and kinds of events that are asked for at once, at most.
const MOST_NAMES: usize = 50;
/// Bytes of the code of an event, at most.
const LONGEST_CODE: usize = 50;

/// Answers a query.
pub type Ask = Arc<dyn Fn(Query) -> BoxFuture<'static, Page> + Send + Sync>;

/// Where the history comes from.
#[derive(Clone)]
pub struct HistorySource {
    /// What all launchers know.
    pub of_all: Ask,
    /// What this one knows.
    pub own: Ask,
    /// Whether it is known which others there are.
    pub is_known: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// What an address asks for.
#[derive(Debug, Default, PartialEq)]
struct Asked {
    query: Query,
    alone: bool,
}

/// Answers the page.
pub(super) async fn answer(source: &HistorySource, memo: &Arc<Memo>, clock: &Clock, uri: &Uri) -> Response {
    let Asked { query, alone } = match asked(uri) {
        Ok(asked) => asked,
        Err(what) => return error(StatusCode::BAD_REQUEST, &what),
    };
    if !alone && !(source.is_known)() {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the records in ZooKeeper have not been read yet");
    }
    let parameters = vec![("alone".to_owned(), alone.to_string()), ("query".to_owned(), query.written())];
    let key = (PATH.to_owned(), parameters, Format::Json);
    let (line, ask) = if alone { (Line::OwnHistory, &source.own) } else { (Line::HistoryOfAll, &source.of_all) };
    let ask = Arc::clone(ask);
    let page = memo.get_or_make(line, key, clock, async move { api::json_of(&ask(query).await) });
    reply::plain(reply::JSON, page.await.shared())
}

fn time(name: &str, value: &str) -> Result<Timestamp, String> {
    let time = value.parse().ok().filter(|time: &Timestamp| time.is_finite());
    time.ok_or_else(|| format!("{name} is a number of seconds since the epoch"))
}

fn asked(uri: &Uri) -> Result<Asked, String> {
    let unreadable = |_| "the address cannot be read".to_owned();
    let Parameters(parameters) = Parameters::<Vec<(String, String)>>::try_from_uri(uri).map_err(unreadable)?;
    let mut asked = Asked::default();
    let query = &mut asked.query;
    for (name, value) in parameters {
        match (name.as_str(), Kind::parse(&name)) {
            (_, Some(kind)) => {
                let subject = Subject::of(&value, Some(kind)).pop();
                let subject = subject.ok_or_else(|| format!("{value:?} cannot be the id or the name of a {name}"))?;
                query.of.push(subject);
            }
            ("event", _) if !value.is_empty() && value.len() <= LONGEST_CODE => query.codes.push(value),
            ("event", _) => return Err("event is the code of events, such as request-failed".to_owned()),
            ("since", _) => query.since = Some(time("since", &value)?),
            ("until", _) => query.until = Some(time("until", &value)?),
            ("alone", _) => {
                let is_alone = value.parse().map_err(|_| "alone is true or false".to_owned())?;
                asked.alone = is_alone;
            }
            ("limit", _) => {
                let limit = value.parse().ok().filter(|limit| (1..=HIGHEST_LIMIT).contains(limit));
                query.limit = limit.ok_or_else(|| format!("limit is a number from 1 to {HIGHEST_LIMIT}"))?;
            }
            ("before", _) => {
                let number = value.parse().map_err(|_| "before is the number of an event".to_owned())?;
                query.before = Some(number);
            }
            _ => {
                return Err(format!(
                    "there is no parameter {name:?}: only {}, event, since, until, limit, alone and before",
                    Kind::words()
                ));
            }
        }
    }
    if asked.query.of.len() + asked.query.codes.len() > MOST_NAMES {
        return Err(format!("{MOST_NAMES} things and events can be asked for at once"));
    }
    if asked.query.before.is_some() && !asked.alone {
        return Err("before is the number of an event of one launcher: with alone=true; of all it is until".to_owned());
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood_or_it_is_said_why_not() {
        let of = |query: &str| asked(&format!("/api/v1/history{query}").parse().unwrap());
        assert_eq!(of(""), Ok(Asked::default()));
        let request = Subject::of("100-0000000001", None);
        let query = Query { of: request, before: Some(77), limit: 5, ..Query::default() };
        let page = of("?request=100-0000000001&limit=5&before=77&alone=true");
        assert_eq!(page, Ok(Asked { query, alone: true }));
        let page = of("?label=a&label=b&provider=p&event=node-ready&event=node-failed&since=1.5&until=1760000000.25");
        let Asked { query, alone: false } = page.unwrap() else { panic!("of all") };
        assert_eq!((query.of.len(), query.codes.len(), query.since), (3, 2, Some(1.5)));
        // It is asked of others as it was understood.
        assert_eq!(of(&format!("?{}", query.written())), Ok(Asked { query, alone: false }));
        for (query, word) in [
            ("?request=debian", "request"),
            ("?before=7", "alone"),
            ("?since=nan", "since"),
            ("?until=yesterday", "until"),
            ("?alone=yes", "alone"),
            ("?event=", "event"),
            ("?limit=0", "limit"),
            ("?limit=1001", "limit"),
            ("?limit=x", "limit"),
            ("?before=-1", "before"),
            ("?pool=x", "pool"),
            ("?label=a%2Fb", "label"),
        ] {
            assert!(of(query).is_err_and(|what| what.contains(word)), "{query}");
        }
    }
}
