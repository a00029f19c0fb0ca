//! `export-image-data` and `import-image-data`: pauses, builds and uploads as one JSON object, path to data.

use std::{collections::BTreeMap, fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path};

use nodepool_common::{model::wire::to_python_json, zk::ZooKeeper};
use serde_json::{Map, Value};

use crate::{
    failure::Failure,
    walk::{self, IMAGES},
};

/// `export-image-data PATH`: a file that only its owner can read. Unlike upstream's, it holds nothing of what was in
/// the file before.
pub async fn export(zk: &ZooKeeper, path: &Path) -> Result<(), Failure> {
    let mut data = Map::new();
    let records = walk::builds(zk).await?;
    for image in &records.paused_images {
        data.insert(format!("{IMAGES}/{image}/pause"), Value::from(""));
    }
    let builds = records.builds.keys().map(|(image, build)| walk::build_path(image, build));
    let uploads = walk::uploads(zk).await?.uploads;
    for path in builds.chain(uploads.keys().map(walk::upload_path)) {
        // The bytes as they are, also of a record that we cannot use.
        if let Some((bytes, _)) = zk.get(&path).await? {
            data.insert(path, Value::from(String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    let failed = |source| Failure::File { doing: "writing", path: path.to_owned(), source };
    let mut file =
        fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(&to_python_json(&data)).map_err(failed)
}

/// `import-image-data PATH`. For a quiet ZooKeeper: nothing is locked, and a builder that is at work is a reason not to
/// begin.
pub async fn import(zk: &ZooKeeper, path: &Path) -> Result<(), Failure> {
    let failed = |source| Failure::File { doing: "reading", path: path.to_owned(), source };
    let text = fs::read(path).map_err(failed)?;
    let data: BTreeMap<String, String> = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    if let Some(stranger) = data.keys().find(|path| !path.starts_with(&format!("{IMAGES}/"))) {
        return Err(Failure::Refused(format!("{}: {stranger} is no path of image data", path.display())));
    }
    advance_upload_numbers(zk, &data).await?;
    for (path, record) in &data {
        if zk.get(path).await?.is_some() {
            zk.set(path, record.as_bytes()).await?;
        } else {
            zk.create(path, record.as_bytes()).await?;
        }
    }
    Ok(())
}

/// Makes ZooKeeper count on from the highest upload number of each directory. It numbers by how many children a
/// directory has ever had, so as many are created (and deleted) as there were; else a builder's next upload would get
/// a number that is taken. Nothing is created before it is known that no builder is at work there.
async fn advance_upload_numbers(zk: &ZooKeeper, data: &BTreeMap<String, String>) -> Result<(), Failure> {
    let mut highest: BTreeMap<&str, u32> = BTreeMap::new();
    for path in data.keys() {
        // /nodepool/images/IMAGE/builds/BUILD/providers/PROVIDER/images/NUMBER
        if let Some((directory, number)) = path.rsplit_once('/')
            && path.matches('/').count() == 9
            && let Ok(number) = number.parse()
        {
            let known = highest.entry(directory).or_insert(number);
            *known = number.max(*known);
        }
    }
    // Not called like a number: it must not be taken for an upload.
    let place_holder = |directory: &str| format!("{directory}/lock");
    for directory in highest.keys() {
        if !zk.children(&place_holder(directory)).await?.is_empty() {
            return Err(Failure::Refused(format!(
                "a builder is uploading images: {directory} is locked. Stop all builders before importing"
            )));
        }
    }
    for (directory, number) in highest {
        for _ in 0..number {
            // One of an earlier time is taken away first: only a creation counts.
            zk.delete_recursive(&place_holder(directory)).await?;
            zk.create(&place_holder(directory), b"").await?;
        }
        zk.delete_recursive(&place_holder(directory)).await?;
    }
    Ok(())
}
