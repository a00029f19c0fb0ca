//! `nodepool-builder`: builds images, uploads them to every provider that wants them, keeps them fresh, retires them.
//!
//! As the launcher's, its loop waits until something may have changed (a record, a file's end, an upload's, the
//! configuration), calls [`plan::plan`] and hands each decision to a task of its own. A task locks, reads again under the
//! lock, does its step and ends; what comes next is the next plan's business. So an image that somebody asks for, one
//! that has aged, and one that a killed builder left half done are one path, and nothing polls ZooKeeper.
//!
//! | module | is about |
//! |---|---|
//! | [`plan`] | deciding: pure |
//! | [`run`] | the loop, and the actions on records and clouds |
//! | [`build`] | one build's child process: its command, environment, log, time and end |
//! | [`image_builder`] | builds by a playbook on another host: `dib-ansible`, and trust in that host |
//! | [`files`] | what is in images-dir: files of builds, checksums, space |
//! | [`machine`] | what of its machine a builder uses: programs and the disk |
//! | `scratch` | where temporary files go |

// Tests measure by the host's clock, and name what they make by its chance.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod build;
pub mod files;
pub mod image_builder;
pub mod machine;
pub mod plan;
pub mod run;
mod scratch;
