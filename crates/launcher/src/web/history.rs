//! `/api/v1/history`: what this launcher has done and seen ([`nodepool_common::history`]), the newest first.
//!
//! | parameter | what |
//! |---|---|
//! | `request=ID`, `node=ID`, `label=NAME`, `image=NAME`, `provider=NAME` | what concerns it; without one of them all |
//! | `limit=NUMBER` | so many at most: 100, or up to 1,000 |
//! | `before=NUMBER` | the next page: what is before the event of that number |

use axum::{
    extract::Query,
    http::{StatusCode, Uri},
    response::Response,
};
use nodepool_common::{
    explain::{Kind, Subject},
    history::History,
};
use serde_json::json;
use tokio::sync::Semaphore;

use super::{api::error, reply};

/// The page.
pub(super) const PATH: &str = "/api/v1/history";
const LIMIT: usize = 100;
const HIGHEST_LIMIT: usize = 1000;
/// How many read the file at once; others wait.
static AT_ONCE: Semaphore = Semaphore::const_new(4);

#[derive(Debug, PartialEq)]
struct Asked {
    of: Option<Subject>,
    before: Option<u64>,
    limit: usize,
}

/// Answers the page.
pub(super) async fn answer(history: &History, uri: &Uri) -> Response {
    let asked = match asked(uri) {
        Ok(asked) => asked,
        Err(what) => return error(StatusCode::BAD_REQUEST, &what),
    };
    let Ok(turn) = AT_ONCE.acquire().await else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "the launcher is stopping");
    };
    let history = history.clone();
    let found = tokio::task::spawn_blocking(move || {
        // Also where who asks has gone meanwhile.
        let _turn = turn;
        history.look_up(asked.of.as_ref(), asked.before, asked.limit)
    });
    match found.await {
        Ok(Ok(events)) => reply::plain(reply::JSON, json!({"events": events}).to_string()),
        Ok(Err(trouble)) => error(StatusCode::SERVICE_UNAVAILABLE, &format!("the history cannot be read: {trouble}")),
        Err(_) => error(StatusCode::INTERNAL_SERVER_ERROR, "a bug: reading the history has failed, see the log"),
    }
}

fn asked(uri: &Uri) -> Result<Asked, String> {
    let unreadable = |_| "the address cannot be read".to_owned();
    let Query(parameters) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(unreadable)?;
    let mut asked = Asked { of: None, before: None, limit: LIMIT };
    for (name, value) in parameters {
        match (name.as_str(), Kind::parse(&name)) {
            (_, Some(kind)) => {
                let subject = Subject::of(&value, Some(kind)).pop();
                let subject = subject.ok_or_else(|| format!("{value:?} cannot be the id or the name of a {name}"))?;
                if asked.of.replace(subject).is_some() {
                    return Err(format!("only one of {} can be asked about", Kind::words()));
                }
            }
            ("limit", _) => {
                let limit = value.parse().ok().filter(|limit| (1..=HIGHEST_LIMIT).contains(limit));
                asked.limit = limit.ok_or_else(|| format!("limit is a number from 1 to {HIGHEST_LIMIT}"))?;
            }
            ("before", _) => {
                let number = value.parse().map_err(|_| "before is the number of an event".to_owned())?;
                asked.before = Some(number);
            }
            _ => return Err(format!("there is no parameter {name:?}: only {}, limit and before", Kind::words())),
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood_or_it_is_said_why_not() {
        let of = |query: &str| asked(&format!("/api/v1/history{query}").parse().unwrap());
        assert_eq!(of(""), Ok(Asked { of: None, before: None, limit: 100 }));
        let request = Subject::of("100-0000000001", None).pop();
        let page = of("?request=100-0000000001&limit=5&before=77");
        assert_eq!(page, Ok(Asked { of: request, before: Some(77), limit: 5 }));
        for (query, word) in [
            ("?request=debian", "request"),
            ("?node=1&label=x", "only one of"),
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
