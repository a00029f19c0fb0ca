//! `nodepool-builder` is not built yet: this crate holds its place in the workspace, and there is no binary.
//!
//! Until it is, Python Nodepool's `nodepool-builder` does the work beside our launcher: both use the same records in
//! ZooKeeper. It builds images and uploads them, our launcher boots nodes from the newest ready upload
//! (`tests/conformance`: upstream's tests of diskimages run with upstream's builder and our launcher), and our
//! `nodepool` command leaves the marks that it acts on (`image-build`, `image-delete`, …).

pub mod image_builder;
