//! `/v1/devices`: what is taken, what is refused and by which code.

use super::{Scene, raw, refused, scene};
use meshd_core::code::ErrorCode;
use meshd_core::config::{Config, Declared};
use serde_json::{Value, json};

async fn put(scene: &Scene, name: &str, body: Value) -> Result<Value, ErrorCode> {
    let path = format!("/v1/devices/{}", super::super::client::segment(name));
    match scene.client.put(&path, &body).await {
        Ok(row) => Ok(row),
        refusal => Err(refused(refusal).code),
    }
}

fn vlan(name: &str, parent: &str, id: u32) -> Value {
    json!({ "vlan": { "name": name, "parent": parent, "id": id } })
}

#[tokio::test]
async fn a_device_is_put_shown_put_otherwise_and_removed() {
    let scene = scene();
    for id in [7, 7, 8] {
        let row = put(&scene, "v0", vlan("v0", "eth1", id)).await.unwrap();
        assert_eq!(row["declared"]["vlan"]["id"], id);
        assert_eq!(row["source"], "api");
        let again: Value = scene.client.get("/v1/devices/v0").await.unwrap();
        assert_eq!(again, row);
        // What is shown is what can be put.
        let shown = row["declared"].clone();
        assert_eq!(put(&scene, "v0", shown).await.unwrap(), row);
    }
    scene.client.delete("/v1/devices/v0").await.unwrap();
    let gone = scene.client.get("/v1/devices/v0").await;
    assert_eq!(refused(gone).code, ErrorCode::DeviceUnknown);
    let rows: Vec<Value> = scene.client.get("/v1/devices").await.unwrap();
    assert_eq!(rows, Vec::<Value>::new());
}

#[tokio::test]
async fn each_refusal_of_a_device_has_its_code_and_changes_nothing() {
    let scene = scene();
    let file = "[[device.bond]]\nname = \"bond0\"\nmembers = [\"eth1\"]\n";
    let file = Config::parse(file).unwrap().device;
    *scene.backend.0.declared.lock().unwrap() = Declared::new("/x.toml".to_owned(), file, []);
    put(&scene, "v0", vlan("v0", "bond0", 7)).await.unwrap();
    put(&scene, "v1", vlan("v1", "v0", 8)).await.unwrap();
    let before = scene.backend.0.declared.lock().unwrap().clone();
    let bond = |name: &str, member: &str| json!({ "bond": { "name": name, "members": [member] } });
    for (name, body, code) in [
        ("bond0", bond("bond0", "eth2"), ErrorCode::DeviceInFile),
        ("bond1", bond("bond1", "eth1"), ErrorCode::DeviceConflict),
        ("v2", vlan("v2", "eth1", 4095), ErrorCode::DeviceInvalid),
        ("v2", vlan("v3", "eth1", 7), ErrorCode::DeviceInvalid),
        ("a/b", vlan("a/b", "eth1", 7), ErrorCode::RequestBodyInvalid),
        ("..", vlan("..", "eth1", 7), ErrorCode::RequestBodyInvalid),
        (
            "a-long-name-of-it",
            vlan("a-long-name-of-it", "eth1", 7),
            ErrorCode::RequestBodyInvalid,
        ),
        ("v2", json!({}), ErrorCode::RequestBodyInvalid),
        (
            "v2",
            json!({ "vlan": { "name": "v2" } }),
            ErrorCode::RequestBodyInvalid,
        ),
        (
            "v2",
            json!({ "tunnel": { "name": "v2" } }),
            ErrorCode::RequestBodyInvalid,
        ),
        (
            "v2",
            json!({ "dummy": { "name": "v2", "mut": 1 } }),
            ErrorCode::RequestBodyInvalid,
        ),
    ] {
        let refused = put(&scene, name, body.clone()).await.unwrap_err();
        assert_eq!(refused, code, "{name} {body}");
    }
    for (name, status, code) in [
        ("v0", 409, "device-in-use"),
        ("bond0", 409, "device-in-file"),
        ("v9", 404, "device-unknown"),
        ("a%2fb", 404, "device-unknown"),
        ("%00", 404, "device-unknown"),
        ("%ff", 400, "request-path-invalid"),
    ] {
        let request = format!("DELETE /v1/devices/{name} HTTP/1.1\r\nhost: meshd\r\n\r\n");
        let answer = raw(&scene, &request).await;
        let head = format!("HTTP/1.1 {status} ");
        assert!(
            answer.starts_with(&head) && answer.contains(code),
            "{name}: {answer}"
        );
    }
    assert_eq!(*scene.backend.0.declared.lock().unwrap(), before);
}
