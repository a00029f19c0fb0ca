//! `dib-ansible` and `trust-host` against a real sshd, ssh, rsync, sudo and ansible-playbook.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod builds;
mod command_line;
mod endings;
mod preflight;
mod trust;
mod world;
