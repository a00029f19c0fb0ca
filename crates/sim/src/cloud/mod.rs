//! The world's clouds: servers that boot, fail, linger and vanish; a quota that others use as well; answers that are errors, late or
//! lost.
//!
//! Promises that are about them: **S2** nothing is deleted that another owner or a node has that somebody may use; what has no
//! record goes in the end (the world's last look). **S3** no node has two servers, and a launcher that is alone asks for no more
//! servers than there is room for.
//!
//! | module | is about |
//! |---|---|
//! | [`servers`] | one cloud: its servers, and its quota |
//! | [`clouds`] | all of them, and the troubles that they have |
//! | [`failures`] | how often the same call fails: nobody may spin |
//! | [`driver`] | what a launcher asks a cloud by, and what every call begins with |
//! | [`promises`] | what a launcher may do in a cloud, and what clouds do that it may say |
//! | [`launch`] | how a server comes to be |
//! | [`provider`] | the drivers' trait, and how a server ends |

mod clouds;
mod driver;
mod failures;
mod launch;
mod promises;
mod provider;
mod servers;

pub use clouds::Clouds;
