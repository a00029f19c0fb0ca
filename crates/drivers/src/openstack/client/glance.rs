//! The methods of [`ImageService`] as calls of Glance.
//!
//! The wire is the SDK's (`openstacksdk: image/v2/_proxy.py create_image`): properties are texts beside Glance's own
//! keys, and the SDK's three `owner_specified.openstack.*` are among them, so that a Python Nodepool or an operator's
//! scripts find what they expect. Where clouds.yaml says `image_api_use_tasks`, the SDK uploads to Swift and has Glance
//! run a task, which Glance has kept for administrators for years; its successor, the interoperable import, serves the
//! same clouds (those that check or convert what they take in), so it is used in its place.

use std::{fmt::Write, time::Duration};

use async_trait::async_trait;
use reqwest::{Body, Method, header};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{http::Call, messages::message_of, nova::Nova, redirects::SendError, service::Service};
use crate::{
    ErrorClass,
    openstack::api::{CloudError, Image, ImageData, ImageService, NewImage, Route},
};

/// A token with less left is renewed before data is sent: Glance looks at it again at the end.
const LASTING: Duration = Duration::from_secs(3600);
/// Images of one page of a listing; Glance's own default is 25.
const PAGE: &str = "1000";
/// Glance's container for a plain disk image.
const CONTAINER_FORMAT: &str = "bare";
/// Where the SDK would put the object if it went through Swift.
const OBJECT_CONTAINER: &str = "images";
/// Properties that are numbers to Glance.
const NUMBERS: [&str; 4] = ["min_disk", "min_ram", "size", "virtual_size"];
const IMPORT_METHOD: &str = "glance-direct";

/// The body of `POST /images` as the SDK writes it.
fn image_body(image: &NewImage, vendor_agent: &Map<String, Value>) -> Value {
    let mut body = Map::new();
    body.insert("container_format".to_owned(), json!(CONTAINER_FORMAT));
    body.insert("visibility".to_owned(), json!("private"));
    for (key, value) in image.metadata.iter().chain(vendor_agent) {
        let (key, value) = property(key, value);
        body.insert(key, value);
    }
    for (key, value) in [
        ("owner_specified.openstack.md5", image.md5.clone().unwrap_or_default()),
        ("owner_specified.openstack.sha256", image.sha256.clone().unwrap_or_default()),
        ("owner_specified.openstack.object", format!("{OBJECT_CONTAINER}/{}", image.name)),
        ("disk_format", image.format.clone()),
        ("name", image.name.clone()),
    ] {
        body.insert(key.to_owned(), json!(value));
    }
    Value::Object(body)
}

/// A property as Glance wants it. Values come as Python writes them: `True`, `7`.
fn property(key: &str, value: &Value) -> (String, Value) {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        other => other.to_string(),
    };
    match key {
        "protected" | "is_protected" => ("protected".to_owned(), json!(text.eq_ignore_ascii_case("true"))),
        _ if NUMBERS.contains(&key) => (key.to_owned(), text.parse::<i64>().map_or_else(|_| json!(text), |n| json!(n))),
        _ => (key.to_owned(), json!(text)),
    }
}

fn image_path(id: &str) -> String {
    format!("/images/{id}")
}

#[async_trait]
impl ImageService for Nova {
    async fn create_image(&self, image: &NewImage) -> Result<Image, CloudError> {
        let mut call = Call::new("create_image", Method::POST, Service::Image, "/images");
        call.body = Some(image_body(image, &self.session().await?.settings.object("disable_vendor_agent")));
        let answer = self.call(call).await?;
        Image::read(&answer).ok_or_else(|| {
            CloudError::new(ErrorClass::Transient, "Glance accepted the creation without naming the image's id")
        })
    }

    async fn get_image(&self, id: &str) -> Result<Option<Image>, CloudError> {
        match self.call(Call::get("get_image", Service::Image, image_path(id))).await {
            Ok(answer) => Ok(Image::read(&answer)),
            Err(error) if error.class == ErrorClass::Gone => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn delete_image(&self, id: &str) -> Result<(), CloudError> {
        self.call(Call::new("delete_image", Method::DELETE, Service::Image, image_path(id))).await.map(drop)
    }

    async fn images_with(&self, metadata: &[(&'static str, String)]) -> Result<Vec<Image>, CloudError> {
        // Our own project's, whatever the credentials may see besides.
        let (_, token) = self.token().await?;
        let mut query: Vec<(&'static str, &str)> = vec![("limit", PAGE)];
        query.extend(token.project.iter().map(|project| ("owner", project.as_str())));
        query.extend(metadata.iter().map(|(key, value)| (*key, value.as_str())));
        let images = self.list("list_images", Service::Image, "/images", "images", &query).await?;
        // A service that does not know a filter may have ignored it.
        let ours = |image: &Image| image.has(metadata) && !image.is_copy();
        Ok(images.iter().filter_map(Image::read).filter(ours).collect())
    }

    async fn route(&self) -> Result<Route, CloudError> {
        let tasks = self.session().await?.settings.is_on("image_api_use_tasks");
        Ok(if tasks { Route::Import } else { Route::Direct })
    }

    async fn takes_imports(&self) -> Result<(), CloudError> {
        let has = match self.call(Call::get("get_import_info", Service::Image, "/info/import")).await {
            Ok(info) => info.pointer("/import-methods/value").cloned().unwrap_or_default(),
            // A Glance from before the import.
            Err(error) if error.class == ErrorClass::Gone => Value::Null,
            Err(error) => return Err(error),
        };
        let has: Vec<&str> = has.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if has.contains(&IMPORT_METHOD) {
            return Ok(());
        }
        let others = if has.is_empty() { "none".to_owned() } else { has.join(", ") };
        Err(CloudError::new(
            ErrorClass::Config,
            format!(
                "its Glance offers no import by {IMPORT_METHOD} (it has: {others}); the legacy task API \
                 (image_api_use_tasks in clouds.yaml, by way of Swift) is not supported: ask the cloud's operator for \
                 direct uploads or {IMPORT_METHOD}"
            ),
        ))
    }

    async fn send_image(&self, id: &str, route: Route, data: ImageData) -> Result<(), CloudError> {
        let (name, path) = match route {
            Route::Direct => ("upload_image", format!("/images/{id}/file")),
            Route::Import => ("stage_image", format!("/images/{id}/stage")),
        };
        let began = Instant::now();
        let sent = self.send_data(name, &path, data).await;
        self.record(name, began.elapsed(), sent.as_ref().map(drop));
        sent
    }

    async fn import_image(&self, id: &str) -> Result<(), CloudError> {
        let path = format!("/images/{id}/import");
        let mut call = Call::new("import_image", Method::POST, Service::Image, path);
        call.body = Some(json!({"method": {"name": IMPORT_METHOD}}));
        self.call(call).await.map(drop)
    }

    async fn import_failure(&self, id: &str) -> Option<String> {
        let call = Call::get("list_image_tasks", Service::Image, format!("/images/{id}/tasks"));
        let answer = self.call(call).await.ok()?;
        let messages = answer.get("tasks")?.as_array()?.iter().filter_map(|task| task.get("message")?.as_str());
        let messages: Vec<&str> = messages.filter(|message| !message.is_empty()).collect();
        (!messages.is_empty()).then(|| messages.join("; "))
    }
}

impl Nova {
    /// One PUT of hours: without a deadline of its own, never repeated.
    async fn send_data(&self, name: &str, path: &str, data: ImageData) -> Result<(), CloudError> {
        let session = self.session().await?;
        let client = &session.http;
        let url = session.url(Service::Image, path).await?;
        let token = session.keystone.token_lasting(client, LASTING).await?;
        let unreachable = |error: SendError| {
            let class = if error.is_redirect() { ErrorClass::Config } else { ErrorClass::Transient };
            CloudError::new(class, format!("{name}: PUT {url}: {error}"))
        };
        let began = Instant::now();
        let request = client
            .request(Method::PUT, url.clone())
            .header("x-auth-token", &token.value)
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::ACCEPT, "")
            .body(Body::wrap(data));
        let answer = client.send(request).await;
        let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
        let named = if status.is_some() { url.path() } else { path };
        session.count(Service::Image, &Method::PUT, named, &token, status, began.elapsed());
        let answer = answer.map_err(unreachable)?;
        let status = answer.status().as_u16();
        let body = answer.bytes().await.map_err(|error| unreachable(error.into()))?;
        match status {
            200..300 => Ok(()),
            401 => {
                session.keystone.refused(&token.value);
                let took = began.elapsed().as_secs();
                let mut message = format!("{name}: Glance refused the token after {took} s: {}", message_of(&body));
                if !token.is_over() {
                    // It was revoked, which another may not be. No status: it is no answer about the image.
                    return Err(CloudError::new(ErrorClass::Transient, message));
                }
                let _ = write!(
                    message,
                    "; it was good for {} s only: let Keystone's tokens ([token] expiration) or application \
                     credentials last longer than an upload takes",
                    token.lifetime().as_secs()
                );
                Err(CloudError::new(ErrorClass::Config, message))
            }
            _ => Err(CloudError::answered(status, format!("{name}: {}", message_of(&body)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_texts_but_for_what_glance_counts_in() {
        let Value::Object(metadata) = json!({"os_version": "9", "min_disk": "20", "min_ram": "a lot",
            "is_protected": "True", "visibility": "shared", "container_format": "ovf", "name": "no", "disk_format": "no"})
        else {
            return;
        };
        let image = NewImage {
            name: "n-1".to_owned(),
            format: "vhd".to_owned(),
            path: "/i/n.vhd".to_owned(),
            size: 1,
            md5: Some("m".to_owned()),
            sha256: None,
            metadata,
        };
        let Value::Object(vendor_agent) = json!({"vm_mode": "hvm", "xenapi_use_agent": false}) else { return };
        assert_eq!(
            image_body(&image, &vendor_agent),
            json!({"name": "n-1", "disk_format": "vhd", "container_format": "ovf", "visibility": "shared",
                "os_version": "9", "min_disk": 20, "min_ram": "a lot", "protected": true, "vm_mode": "hvm",
                "xenapi_use_agent": "False", "owner_specified.openstack.md5": "m",
                "owner_specified.openstack.sha256": "", "owner_specified.openstack.object": "images/n-1"})
        );
    }
}
