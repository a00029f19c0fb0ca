//! The task that feeds the cache: watch, walk, then follow the events, in each session anew.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt, Stream, StreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use tokio::time::Instant;

use super::{
    super::{
        paths::{self, Spot},
        protocol::{Change, Client, Error, Event, Events, Found, Read, SessionId},
        record::stat,
        repeated,
        session::Shared,
    },
    Cache, Freshness,
    echoes::Echo,
    tree::Tree,
    walk::{BATCH, walk},
};
use crate::model::guard;

const LOGGER: &str = "nodepool.zk.Cache";
/// Requests in flight, each for as many paths as have gathered by then.
const IN_FLIGHT: usize = 4;
/// Between two attempts while the connection breaks again and again.
const PAUSE: Duration = Duration::from_millis(200);

pub(crate) async fn follow(shared: Arc<Shared>, cache: Cache) {
    let mut pause = Duration::ZERO;
    loop {
        let next = async {
            tokio::time::sleep(pause).await;
            shared.next_session().await
        };
        let (session, client) = tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            next = next => next,
        };
        let result = tokio::select! {
            biased;
            () = shared.stop.cancelled() => break,
            // Says so before the client's own watches do.
            () = shared.ended(session) => Ok(()),
            result = session_long(session, client, &cache) => result,
        };
        cache.set_freshness(Freshness::Stale);
        cache.set_queues(0, 0);
        pause = match result {
            Ok(()) => Duration::ZERO,
            Err(error) => {
                tracing::info!(logger = LOGGER, "Reading /nodepool failed, starting again: {error}");
                PAUSE
            }
        };
    }
    cache.set_freshness(Freshness::Stale);
}

/// Follows one session until it ends.
async fn session_long(session: SessionId, client: Client, cache: &Cache) -> Result<(), Error> {
    ensure_parents(&client).await?;
    let mut events = client.watch(paths::ROOT).await?;
    loop {
        let started = Instant::now();
        cache.walk_begins(session);
        // A server that lags behind would show what was before.
        client.sync(paths::ROOT).await?;
        let walking = walk(&client, cache.heir(), &cache.inner.clock);
        let is_first = !cache.is_of(session);
        let (walked, heard) = if cache.is_of(session) {
            cache.set_freshness(Freshness::Renewing);
            tracing::debug!(
                logger = LOGGER,
                "Reading /nodepool again; until then what was known serves as far as it can"
            );
            let mut heard = Vec::new();
            let walked = follow_while(walking, Follower::of_old_tree(&client, cache), &mut events, &mut heard).await?;
            (walked, heard)
        } else {
            (Walked::Done(Box::new(walking.await?)), Vec::new())
        };
        let end = match walked {
            Walked::Interrupted(end) => end,
            Walked::Done(tree) => {
                let (nodes, requests) = (tree.records.nodes.len(), tree.records.requests.len());
                if is_first || !guard::is_removed("walk after a gap") {
                    cache.walked(*tree, session);
                }
                tracing::info!(
                    logger = LOGGER,
                    "Read /nodepool: {nodes} nodes, {requests} requests in {:.1} s",
                    started.elapsed().as_secs_f64()
                );
                // One more answer from the server: each event of what happened during the walk has arrived before it.
                client.exists(paths::ROOT).await?;
                let mut events = stream::iter(heard).chain(events.by_ref());
                Follower::new(&client, cache).run(&mut events).await?
            }
        };
        match end {
            End::Session => return Ok(()),
            End::Gap => {
                cache.set_freshness(Freshness::Stale);
                tracing::debug!(logger = LOGGER, "The connection was lost for a while, reading /nodepool again");
                // The new one first: dropping the last one of a path would remove the server's.
                events = client.watch(paths::ROOT).await?;
            }
        }
    }
}

/// How a walk has ended during which events were followed.
enum Walked {
    /// It has read everything.
    Done(Box<Tree>),
    /// What it reads would be too old.
    Interrupted(End),
}

/// Applies events to what was known, as long as the walk lasts that takes its place. `heard`: those that have to be applied to what
/// the walk has read, too, which may be older.
async fn follow_while(
    walking: impl Future<Output = Result<Tree, Error>>,
    follower: Follower<'_>,
    events: &mut Events,
    heard: &mut Vec<Event>,
) -> Result<Walked, Error> {
    let mut events = events.by_ref().inspect(|event| heard.push(event.clone()));
    tokio::select! {
        // What interrupts a walk makes it useless, also where it is just done.
        biased;
        end = follower.run(&mut events) => end.map(Walked::Interrupted),
        walked = walking => walked.map(|tree| Walked::Done(Box::new(tree))),
    }
}

/// The directories that every process expects, as upstream's first writers leave them.
async fn ensure_parents(client: &Client) -> Result<(), Error> {
    let paths = [paths::NODES, paths::REQUESTS, paths::REQUEST_LOCKS, paths::IMAGES, paths::POOLS, paths::ELECTIONS];
    // All at once: at a start requests wait for it.
    let made = paths.map(|path| repeated::mkdir(client, path));
    futures::future::try_join_all(made).await.map(drop)
}

enum End {
    /// There will be no more events.
    Session,
    /// Events were lost.
    Gap,
}

/// What was heard of a path last.
struct Heard {
    /// The transaction of the event; `None` from old servers.
    zxid: Option<i64>,
    /// The number of the read that it caused; 0: none yet.
    asked: u64,
}

/// What was read, each with its number, and what came of the request.
type Answered = (Vec<(u64, Spot)>, Result<Vec<Result<Found, Error>>, Error>);

struct Follower<'a> {
    client: &'a Client,
    cache: &'a Cache,
    /// Paths to be read, in the order of their events, each with the last write of ours that had begun then.
    waiting: VecDeque<(Spot, u64)>,
    /// Those that answers to writes of ours may bring.
    awaited: Vec<(Spot, u64)>,
    /// Contenders that are gone, whose records are still to be read: who sees a record unlocked finds in it what was written
    /// before that.
    unlocked: Vec<(Spot, Spot)>,
    /// The latest event of a path that has not been read since. Of a path that is not in it, because it was deleted, the answer of
    /// a read counts for nothing.
    latest: HashMap<Spot, Heard>,
    reads: FuturesUnordered<BoxFuture<'a, Answered>>,
    count: u64,
    /// Paths in the requests in flight.
    in_flight: usize,
    /// What changed during the walk and has not been read since; `None`: not looked at yet. Without it the tree is as
    /// new as the walk, and what comes later does not make it older: under load something is always in flight.
    backlog: Option<HashSet<Spot>>,
    /// Whether it is being walked anew: what this follower does makes it no newer than it was before the connection broke.
    is_old: bool,
    suspended: bool,
}

impl<'a> Follower<'a> {
    fn new(client: &'a Client, cache: &'a Cache) -> Self {
        Self {
            client,
            cache,
            waiting: VecDeque::new(),
            awaited: Vec::new(),
            unlocked: Vec::new(),
            latest: HashMap::new(),
            reads: FuturesUnordered::new(),
            count: 0,
            in_flight: 0,
            backlog: None,
            is_old: false,
            suspended: false,
        }
    }

    /// One for what was known before the connection broke.
    fn of_old_tree(client: &'a Client, cache: &'a Cache) -> Self {
        Self { is_old: true, ..Self::new(client, cache) }
    }

    async fn run(mut self, events: &mut (impl Stream<Item = Event> + Unpin)) -> Result<End, Error> {
        loop {
            // Before the events: that of its creation has arrived by now.
            self.settle();
            // Whatever has arrived already, before anything is asked.
            while let Some(event) = events.next().now_or_never() {
                if let Some(end) = self.event(event) {
                    return Ok(end);
                }
            }
            // The events of the walk have arrived before it was over.
            if self.backlog.is_none() {
                self.backlog = Some(self.waiting.iter().map(|(spot, _)| spot.clone()).collect());
            }
            // Before the next line: what is gone again by now is not asked for, and nothing of it is heard any more.
            self.ask();
            if self.backlog.as_ref().is_some_and(HashSet::is_empty) && !self.suspended && !self.is_old {
                self.cache.set_current();
            }
            self.cache.set_queues(self.waiting.len() + self.awaited.len(), self.in_flight);
            tokio::select! {
                biased;
                event = events.next() => {
                    if let Some(end) = self.event(event) {
                        return Ok(end);
                    }
                }
                Some(read) = self.reads.next(), if !self.reads.is_empty() => self.answer(read)?,
                () = self.cache.some_write_answered(), if !self.awaited.is_empty() => {
                    self.waiting.extend(self.awaited.drain(..));
                }
                () = self.cache.some_unsettled() => {}
            }
        }
    }

    fn event(&mut self, event: Option<Event>) -> Option<End> {
        match event {
            Some(Event::Suspended) => {
                self.suspended = true;
                self.cache.set_freshness(Freshness::Stale);
                None
            }
            Some(Event::Gap) => Some(End::Gap),
            Some(Event::Ended) | None => Some(End::Session),
            Some(Event::Znode { change: Change::Created | Change::Written, path, zxid }) => {
                let spot = Spot::parse(&path)?;
                if spot.has_data() {
                    // A lock's directory has no data, but it is there now; its stat follows.
                    self.latest.insert(spot.clone(), Heard { zxid, asked: 0 });
                    self.waiting.push_back((spot, self.cache.last_write()));
                } else {
                    self.cache.change(|tree| tree.add(&spot, self.cache.now()));
                }
                None
            }
            Some(Event::Znode { change: Change::Deleted, path, .. }) => {
                let spot = Spot::parse(&path)?;
                self.latest.remove(&spot);
                self.read(&spot);
                match spot.locked_record() {
                    Some(record) if self.latest.contains_key(&record) => self.unlocked.push((record, spot)),
                    _ => {
                        self.cache.change(|tree| tree.remove(&spot, self.cache.now()));
                        self.unlock();
                    }
                }
                None
            }
        }
    }

    /// What has been created, and may be gone or not, is to be read; a contender's events say which it is.
    fn settle(&mut self) {
        for spot in self.cache.take_unsettled() {
            if spot.has_data() {
                self.latest.entry(spot.clone()).or_insert(Heard { zxid: None, asked: 0 });
                self.waiting.push_back((spot.clone(), 0));
                if let Some(backlog) = &mut self.backlog {
                    backlog.insert(spot);
                }
            }
        }
    }

    /// Removes the contenders whose records wait no longer.
    fn unlock(&mut self) {
        let latest = &self.latest;
        for (_, contender) in self.unlocked.extract_if(.., |(record, _)| !latest.contains_key(record)) {
            self.cache.change(|tree| tree.remove(&contender, self.cache.now()));
        }
    }

    /// Something is known to be as new as the walk's end, or newer.
    fn read(&mut self, spot: &Spot) {
        if let Some(backlog) = &mut self.backlog {
            backlog.remove(spot);
        }
    }

    /// Asks for what waits: at once when nothing is in flight, else with what gathers until an answer arrives.
    fn ask(&mut self) {
        while self.reads.len() < IN_FLIGHT && !self.waiting.is_empty() {
            let mut batch = Vec::new();
            while batch.len() < BATCH
                && let Some((spot, until)) = self.waiting.pop_front()
            {
                match self.latest.get_mut(&spot) {
                    Some(heard) if heard.asked == 0 => match self.cache.echo(&spot, heard.zxid, until) {
                        Echo::Known => {
                            self.latest.remove(&spot);
                            self.read(&spot);
                        }
                        Echo::Awaited => self.awaited.push((spot, until)),
                        Echo::News => {
                            self.count += 1;
                            heard.asked = self.count;
                            batch.push((self.count, spot));
                        }
                    },
                    // Asked already for a later event.
                    Some(_) => {}
                    // Deleted since.
                    None => self.read(&spot),
                }
            }
            if !batch.is_empty() {
                self.in_flight += batch.len();
                // Sent now, in this order; only the answer is waited for.
                let paths: Vec<String> = batch.iter().map(|(_, spot)| spot.path()).collect();
                let reads: Vec<Read<'_>> = paths.iter().map(|path| Read::Data(path)).collect();
                let reading = self.client.read(&reads);
                self.reads.push(async move { (batch, reading.await) }.boxed());
            }
        }
        self.unlock();
    }

    fn answer(&mut self, (batch, result): Answered) -> Result<(), Error> {
        self.in_flight -= batch.len();
        let answers = match result {
            Ok(answers) => answers,
            // The connection broke, and a gap follows; or only this answer did.
            Err(error) if error.is_unanswered() => {
                for (number, spot) in batch {
                    if let Some(heard) = self.latest.get_mut(&spot)
                        && heard.asked == number
                    {
                        heard.asked = 0;
                        self.waiting.push_back((spot, 0));
                    }
                }
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let mut still = Vec::with_capacity(answers.len());
        for ((number, spot), answer) in batch.into_iter().zip(answers) {
            // Deleted since.
            let Some(heard) = self.latest.get(&spot) else { continue };
            let is_overtaken = heard.asked != number;
            match answer {
                // Overtaken by a later event, for which it is read once more: it was so all the same, after the walk's end, and the
                // tree may have nothing of it yet.
                Ok(Found::Data(data, new)) => {
                    self.read(&spot);
                    if !is_overtaken {
                        self.latest.remove(&spot);
                    }
                    still.push((spot, Some((data, stat(&new)))));
                }
                // It is there by now.
                Err(Error::NoNode) if is_overtaken => {}
                Err(Error::NoNode) => {
                    self.read(&spot);
                    self.latest.remove(&spot);
                    still.push((spot, None));
                }
                Err(error) => return Err(error),
                Ok(Found::Children(_)) => {}
            }
        }
        self.cache.change(|tree| {
            let mut changed = false;
            for (spot, read) in still {
                changed |= match read {
                    Some((data, new)) => tree.put(&spot, &data, new, self.cache.now()),
                    None => tree.remove(&spot, self.cache.now()),
                };
            }
            changed
        });
        self.unlock();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            memory::Memory,
            protocol::{Connector as _, Mode},
        },
        *,
    };
    use crate::{model::Node, sys::clock::Clock};

    /// Before, its first state was thrown away, and the records counted as current without it until the second one was read.
    #[tokio::test]
    async fn a_new_record_that_is_written_again_while_it_is_read_is_known_from_the_first_answer_on() {
        let client = Memory::new(|| 1).connect().await.unwrap();
        for path in [paths::ROOT, paths::NODES] {
            client.create(path, b"", Mode::Persistent).await.unwrap();
        }
        let spot = Spot::Node("0000000001".into());
        client.create(&spot.path(), &Node::new(1.0).write(), Mode::Persistent).await.unwrap();
        let cache = Cache::new(Clock::system());
        assert!(cache.is_wanted_first());
        cache.walk_begins(SessionId(1));
        cache.walked(cache.heir(), SessionId(1));
        let mut follower = Follower::new(&client, &cache);
        let event = |change, zxid| Some(Event::Znode { change, path: spot.path(), zxid: Some(zxid) });
        assert!(follower.event(event(Change::Created, 1)).is_none());
        follower.backlog = Some(HashSet::from([spot.clone()]));
        follower.ask();
        assert!(follower.event(event(Change::Written, 2)).is_none());
        let read = follower.reads.next().await.unwrap();
        follower.answer(read).unwrap();
        assert!(cache.read(|records| records.nodes.len() == 1));
        assert!(follower.backlog.is_some_and(|backlog| backlog.is_empty()), "it is as new as the walk");
        assert!(follower.latest.contains_key(&spot), "it is read once more");
    }
}
