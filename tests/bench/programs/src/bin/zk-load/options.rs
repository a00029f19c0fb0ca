//! What zk-load is asked to do.

use nodepool_bench::Tls;
use nodepool_bench::arguments::{Arguments, ZOOKEEPER};

/// How the requests follow each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// All at once.
    Burst,
    /// `concurrency` in flight.
    Closed,
    /// `rate` a second, whatever becomes of them.
    Open,
    /// One after another, up to `gap` seconds between.
    Serial,
}

/// See the arguments of the same names in [`read`].
pub struct Options {
    pub requests: usize,
    pub nodes: usize,
    pub label: String,
    pub mode: Mode,
    pub concurrency: usize,
    pub rate: f64,
    pub hold: f64,
    pub gap: f64,
    pub wait_empty: bool,
    pub priority: u32,
    pub timeout: f64,
    pub no_wait_gone: bool,
    pub keep_nodes: Option<i32>,
    pub restart: bool,
}

/// ZooKeeper's address, TLS for it, and the rest.
///
/// `--requests N`, of `--nodes N` each of `--label NAME`, with `--priority N`; `--mode burst | closed --concurrency N |
/// open --rate N | serial --gap S [--wait-empty]`; each node is held for `--hold S`. `--restart`: the launcher starts
/// when all requests are there. `--timeout S`; at the end it waits until at most `--keep-nodes N` nodes (default: as
/// many as there were) are left, but not with `--no-wait-gone`.
pub fn read() -> Result<(String, Option<Tls>, Options), String> {
    let names = [
        &ZOOKEEPER[..],
        &["--requests", "--nodes", "--label", "--mode", "--concurrency", "--rate", "--hold", "--gap"],
        &["--priority", "--timeout", "--keep-nodes"],
    ];
    let a = Arguments::read(&names.concat(), &["--wait-empty", "--no-wait-gone", "--restart"])?;
    let (hosts, tls) = a.zookeeper()?;
    let mode = match a.text("--mode").unwrap_or("burst") {
        "burst" => Mode::Burst,
        "closed" => Mode::Closed,
        "open" => Mode::Open,
        "serial" => Mode::Serial,
        other => return Err(format!("--mode: burst, closed, open or serial, not {other}")),
    };
    if a.flag("--restart") && mode != Mode::Burst {
        return Err("--restart goes with --mode burst only".into());
    }
    let options = Options {
        requests: a.number("--requests", 100)?,
        nodes: a.number("--nodes", 1)?,
        label: a.text("--label").unwrap_or("bench-label").to_string(),
        mode,
        concurrency: a.number("--concurrency", 50)?,
        rate: a.number("--rate", 10.0)?,
        hold: a.number("--hold", 0.0)?,
        gap: a.number("--gap", 2.0)?,
        wait_empty: a.flag("--wait-empty"),
        priority: a.number("--priority", 100)?,
        timeout: a.number("--timeout", 900.0)?,
        no_wait_gone: a.flag("--no-wait-gone"),
        keep_nodes: a.text("--keep-nodes").map(|_| a.number("--keep-nodes", 0)).transpose()?,
        restart: a.flag("--restart"),
    };
    Ok((hosts.to_string(), tls, options))
}
