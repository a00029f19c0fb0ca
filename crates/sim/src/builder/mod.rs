//! Whole builders in the same world: their part of the design is that of the crate (a seed decides everything, each trouble is
//! left out by some histories, promises are judged by what is, not by what a builder believes).
//!
//! * **What is real**: the builder with everything that it has between ZooKeeper's connection and its decisions and actions, and the
//!   files of images, in a directory of the host's: they are small, and who changes them waits for nobody.
//! * **What is a model**: ZooKeeper and the network (those of launchers), the clouds' images ([`cloud`]), and the machine
//!   ([`machine`]): programs that build take simulated time, fail, hang, are killed, lack a format or leave half of a file; disks
//!   are full; what a killed builder has begun goes on until its successor ends it.
//! * **Troubles** ([`plan::Trouble`]): those of the network; builders that are killed at any time, right after any write to
//!   ZooKeeper and in the middle of an upload, and are started again at their images-dir; clouds that answer with errors, hang
//!   or are away; images that stay after an error, linger or vanish; files that somebody deletes; operators who ask for builds,
//!   delete builds and uploads, pause images, and take images and providers out of the configuration; clocks that are set.
//! * **Promises** ([`truth`], [`machine`], [`cloud`] while it happens; [`rest`](world) in the end): see there.
//!
//! What it does not have: builders of Python Nodepool's beside ours, `post-upload-hook`, playbooks on other hosts (`dib-ansible`), nodes
//! that use images, errors of single calls of the file system (a disk is full for builds, not for a checksum or a log).

mod cloud;
mod machine;
mod plan;
mod process;
mod rest;
mod tests;
mod truth;
mod world;

pub use self::{plan::Plan, world::live};
