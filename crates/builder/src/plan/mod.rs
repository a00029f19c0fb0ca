//! Deciding: which images to build, which builds to upload, what to retire, and why.
//!
//! [`plan`] looks at the [`World`] (configuration, records, the files in images-dir, what we do at the moment, the time)
//! and returns a [`Plan`]: the decisions to carry out now, and when to look again if nothing else happens. It is pure and
//! total: no clock, no I/O, no error; the same world gives the same plan. `run/` carries the decisions out: each action
//! reads again under its lock, does its step, and the next pass decides what follows.
//!
//! The rules are upstream's (`nodepool 11.0.0: builder.py`), with these deliberate differences that no peer notices:
//!
//! * What was asked for by hand is built first, then what has no build, then what is too old ([`builds`]); upstream goes
//!   by the order of the file.
//! * Builds and uploads that fail are tried again after a pause that doubles, and at once when somebody asks for it or
//!   the configuration changes; upstream builds a broken image in a loop.
//! * An upload that a node on record was made from stays, and its build with it ([`retire`]); upstream does not look.
//! * The newest failed build, and the newest failed upload of a build, stay on record until the next one has ended, so that
//!   people can see them and their reason; their files and cloud images go at once.
//! * Of an image that is missing from our configuration we delete what we have built ourselves. Upstream deletes what it
//!   can reach of anybody's.
//! * What a builder that died left half done is given half a minute to be taken up again by its own builder.
//! * Records without data are removed: the clean-up of a Python builder fails on them in each cycle.
//! * Beside a builder of Python Nodepool's, clean-up is left to it for as long as it does it, and beside others of ours each
//!   deletes the images of its own builds ([`retire`]): what a peer takes away is left alone.
//!
//! | module | decides about |
//! |---|---|
//! | [`builds`] | images to build |
//! | [`uploads`] | builds to upload |
//! | [`retire`] | uploads, builds and files to delete |
//! | [`orphans`] | which files of builds on no record may be deleted, and which are held back |

mod builds;
mod decision;
mod orphans;
mod retire;
mod uploads;
mod world;

pub use decision::{Decision, Plan, Subject, Why};
pub use world::{Doing, LocalBuild, LocalFiles, ProviderImages, UploadTo, World};

/// Decides what to do now.
pub fn plan(world: &World<'_>) -> Plan {
    let mut plan = Plan::default();
    if !world.stopping {
        builds::plan(world, &mut plan);
        uploads::plan(world, &mut plan);
        if world.retires {
            retire::plan(world, &mut plan);
        }
    }
    plan
}

#[cfg(test)]
mod tests;
