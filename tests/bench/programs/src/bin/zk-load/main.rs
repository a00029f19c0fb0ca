//! Zuul's side of node requests as one cheap process: submits requests as Zuul does, watches each until it is fulfilled
//! or failed, reads and locks its nodes, deletes the request, sets the nodes in-use and used and lets them go. The reads
//! and writes of Zuul's own classes, with their JSON, on one pipelined session. At the end it compares the
//! `requestor_data` of every answered request with what it had written.
//!
//! stdout is lines, each an object with `event`: connected, (with --restart: created,) drained, result. stdin has a word
//! for it: `go` after connected, with --restart `t0 SECONDS` after created (latencies count from then), `quit` after
//! result. At the end of stdin it exits.

mod document;
mod life;
mod options;
mod random;
mod report;

use std::io::BufRead;
use std::process::ExitCode;

use nodepool_bench::numbers::{now, round};
use nodepool_bench::zk::{Error, Zk};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Duration, Instant};

use life::{Load, REQUESTS};
use options::Options;
use report::Times;

/// CPU seconds of the main thread, which does all the work.
fn cpu() -> Option<f64> {
    let s = std::fs::read_to_string("/proc/self/schedstat").ok()?;
    Some(s.split(' ').next()?.parse::<f64>().ok()? / 1e9)
}

fn emit(event: &str, mut value: Value) {
    value["event"] = event.into();
    println!("{value}");
}

/// The lines of stdin.
fn orders() -> mpsc::UnboundedReceiver<String> {
    let (sender, orders) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let quit = line == "quit";
            if sender.send(line).is_err() || quit {
                return;
            }
        }
        // Whoever started this is gone.
        std::process::exit(1);
    });
    orders
}

/// What follows `word` in the next line.
async fn order(orders: &mut mpsc::UnboundedReceiver<String>, word: &str) -> Result<String, String> {
    let line = orders.recv().await.unwrap_or_default();
    match line.split_once(' ').unwrap_or((&line, "")) {
        (first, rest) if first == word => Ok(rest.to_string()),
        _ => Err(format!("{word} expected on stdin, not {line:?}")),
    }
}

async fn run() -> Result<(), String> {
    let (hosts, tls, options) = options::read()?;
    let zk = Zk::connect(&hosts, tls.as_ref()).await?;
    let load = Load::new(options, zk.clone());
    let Options { timeout, requests, restart, no_wait_gone, keep_nodes, .. } = load.options;
    let keep = async {
        zk.ensure(REQUESTS).await?;
        match keep_nodes {
            Some(n) => Ok::<i32, Error>(n),
            None => load.node_count().await,
        }
    };
    let keep = keep.await.map_err(|e| format!("{REQUESTS}: {e}"))?;
    let mut orders = orders();
    emit("connected", json!({"session": format!("{:#x}", zk.id())}));
    order(&mut orders, "go").await?;

    let (cpu_before, packets, writes) = (cpu(), zk.packets(), zk.writes());
    let start = now();
    let late = load.submit_all(start, keep).await;
    let submit_end = now();
    let submitted = load.submitted();
    let allowed = Duration::from_secs_f64(timeout);
    let mut t0 = start;
    if restart {
        load.until(Instant::now() + allowed, || load.created.get() >= submitted).await;
        emit("created", json!({}));
        let given = order(&mut orders, "t0").await?;
        t0 = given.parse().map_err(|_| format!("t0: not a number: {given}"))?;
    }
    let begun = now();
    let deadline = Instant::now() + allowed;
    load.until(deadline, || load.answered.get() >= submitted || load.returned.get() >= submitted).await;
    if load.answered.get() >= requests {
        emit("drained", json!({}));
    }
    load.until(deadline, || load.returned.get() >= submitted).await;
    let end = now();
    let gone = if no_wait_gone { None } else { load.empty_but(keep, (begun + timeout - end).max(5.0), 0.1).await };

    let mut out = load.report(&Times { t0, start, submit_end, late, end, gone });
    out["packets"] = (zk.packets() - packets).into();
    out["writes"] = (zk.writes() - writes).into();
    out["cpu_s"] = cpu().zip(cpu_before).map(|(after, before)| round(after - before, 4)).into();
    emit("result", out);
    order(&mut orders, "quit").await?;
    zk.close().await;
    Ok(())
}

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(|e| e.to_string()).and_then(|rt| LocalSet::new().block_on(&rt, run()));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("zk-load: {e}");
            ExitCode::FAILURE
        }
    }
}
