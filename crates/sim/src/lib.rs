//! Whole launchers, and whole builders ([`builder`]), in a simulated world: for tests only.
//!
//! A **history** is one or more launchers, unmodified, with everything that production has from ZooKeeper connection and cache to
//! planner, loop, actions and launches. Around them is a world: ZooKeeper in memory behind a network that is slow and breaks, clouds
//! behind the drivers' trait, a Zuul, and operators. All of it runs in one thread of a tokio runtime whose time stands
//! still until everybody waits; an hour passes in a tenth to a fifth of a second.
//!
//! * **What a seed decides**: everything. First the shape (labels, pools, quotas, how many launchers and requests) and which
//!   troubles there are ([`plan`]): each history leaves some out, because one trouble hides what another would show. Then
//!   each actor draws from a sequence of its own ([`chance`]), so that an actor less does not change the others. The same seed
//!   tells the same story twice, byte by byte.
//! * **The order of events**: each request to ZooKeeper is on its way for a while, is carried out, and its answer is on its
//!   way; those of one session keep their order, and between sessions anything overtakes anything ([`network`]).
//!   What is due in the same moment is done in the order in which it was begun: no branch of a `select!` is drawn by
//!   chance in the daemons (tests/layering), and who waits for one value is woken in order (`sys::watch`).
//! * **Troubles** ([`plan::Trouble`]): answers lost after the write was done and before, connections that break shortly or for longer
//!   than a session; errors of each class from the clouds, servers made although the answer was an error, calls that hang,
//!   quotas that others use, servers that fail, linger or vanish ([`cloud`]); a Zuul that withdraws, revises, holds and
//!   dies ([`zuul`]); a launcher of Python's that declines, serves and dies ([`peer`]); launchers killed at any time and right between a cloud's answer and its record, stopped in both ways, new
//!   configurations, clocks that are set, locks that people delete ([`world`]).
//! * **Promises**: what the records say and who has which lock is followed through each transaction ([`truth`]: S1 to S4),
//!   what is declined is declined for causes that are true ([`causes`]: L1), each deletion in a cloud is judged when it happens ([`cloud`]: S2), and nobody may spin ([`network`]). After some time troubles
//!   end; then every request has to be answered and every node given back, all that leaked has to go, the stock has to be as
//!   configured, and finally little may be asked for ([`world`]: L1, L2, L3).
//! * **When one is broken**: the test says the seed, the plan, the least part of it that still breaks the same promise
//!   ([`shrink`]) and the last events before; the whole [`story`] with the launchers' log is in a file.
//!   `make sim SEED=n` tells it again, `make sim CASES=n` lives that many histories, `make sim-campaign HOURS=n` as many as fit.
//! * **Whether anybody would notice**: places that promises rest on are guards with names, in the launcher's own code
//!   (`nodepool_common::model::guard`). A test removes each by itself, and some history has to break a promise then.
//!
//! * **What it costs** (the campaign's build, seeds 1000 to 1099, each history 0.6 simulated hours long on average): 95 ms of one
//!   core on a busy machine, that is 630 histories a core and minute, of 525 million instructions each. It does not follow from the
//!   model: each of some 3,000 transactions in a history makes some launcher pass, and the launchers take four fifths of the time
//!   (passes a third, the cache a sixth, reading and writing records a sixth); what the records say is followed for a fourteenth
//!   ([`truth`]), and lines of the story cost a hundredth. A faster allocator saves a tenth (`LD_PRELOAD`).
//!
//! What it does not have yet: launchers and builders in one history, static and metastatic providers, tenants' limits.
//!
//! Imports go one way: `chance` `ends` `story`, `plan`, `causes`, `truth`, `network`, `cloud` `kazoo`, `zuul` `peer`, `process`, `world`, `shrink`, `builder`.

#[cfg(test)]
mod builder;
#[cfg(test)]
mod causes;
#[cfg(test)]
mod chance;
#[cfg(test)]
mod cloud;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod kazoo;
#[cfg(test)]
mod network;
#[cfg(test)]
mod peer;
#[cfg(test)]
mod plan;
#[cfg(test)]
mod process;
#[cfg(test)]
mod shrink;
#[cfg(test)]
mod story;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod truth;
#[cfg(test)]
mod world;
#[cfg(test)]
mod zuul;
