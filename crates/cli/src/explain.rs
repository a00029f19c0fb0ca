//! `explain`: what a request waits for, or why a node is as it is.
//!
//! What stands in ZooKeeper is read here; what pools have decided is asked of their launchers. Those that cannot be asked are
//! named, and the rest is said without them.

use std::{process::ExitCode, time::Duration};

use nodepool_common::{
    explain::{ANSWER_WITHIN, Explanation, Subject, Verdict, ask, of_node, of_request},
    sys::clock,
    zk::ZooKeeper,
};
use nodepool_drivers::http_client;

use crate::{
    args::{ExplanationFormat as Format, WhatToExplain},
    failure::{Failure, say},
    walk,
};

/// Between two looks with `--watch`.
const LOOK: Duration = Duration::from_secs(2);
const GONE: &str = "it is gone by now: it was served and taken, failed, or was withdrawn";
const NO_TRACE: &str = "it never was, or it is done and its record deleted, which Zuul does at once";

/// `explain ID [--format FORMAT] [--watch]`; the exit status says what is to be done.
pub async fn run(zk: &ZooKeeper, what: &WhatToExplain) -> Result<ExitCode, Failure> {
    let mut last: Option<Explanation> = None;
    loop {
        let Some(explanation) = explain(zk, &what.id).await? else {
            let why = if last.is_some() { GONE } else { NO_TRACE };
            return Err(Failure::Refused(format!("there is no trace of {}: {why}", what.id)));
        };
        let verdict = explanation.verdict;
        let goes_on = what.watch && matches!(verdict, Verdict::Wait | Verdict::Act);
        if last.as_ref() != Some(&explanation) {
            print(&explanation, what.format)?;
            last = Some(explanation);
        }
        if !goes_on {
            return Ok(ExitCode::from(verdict.exit_code()));
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn explain(zk: &ZooKeeper, id: &str) -> Result<Option<Explanation>, Failure> {
    Ok(match Subject::of(id) {
        Some(Subject::Request(request)) => {
            let records = walk::around_request(zk, &request).await?;
            let asked =
                ask(&records, &request, async |url: String| http_client::fetch(&url, ANSWER_WITHIN).await).await;
            of_request(&records, &request, &asked, clock::now())
        }
        Some(Subject::Node(node)) => of_node(&walk::around_node(zk, &node).await?, &node, clock::now()),
        None => {
            return Err(Failure::Refused(format!(
                "{id} is no id of a request (200-0000000123) or of a node (0000000123); only those are explained"
            )));
        }
    })
}

fn print(explanation: &Explanation, format: Format) -> Result<(), Failure> {
    match format {
        Format::Text => say(explanation.render(clock::now()).trim_end()),
        Format::Json => {
            let json = serde_json::to_string_pretty(explanation);
            say(&json.map_err(|error| Failure::Refused(format!("the explanation cannot be written: {error}")))?)
        }
    }
}
