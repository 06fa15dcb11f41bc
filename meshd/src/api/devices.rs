//! `/v1/devices`: devices of the host, as they are, and how they are declared.

use super::backend::Backend;
use super::extract::{Answer, ApiError, Body, Segments};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use meshd_core::code::ErrorCode;
use meshd_core::config::{DeviceConfig, DeviceName, unknown_device};
use meshd_core::ident::escape;
use meshd_core::view;

pub(super) async fn of_host<B: Backend>(State(backend): State<B>) -> Answer<Vec<view::Device>> {
    Ok(Json(backend.devices().await?))
}

pub(super) async fn one<B: Backend>(
    State(backend): State<B>,
    Segments(device): Segments<String>,
) -> Answer<view::Device> {
    Ok(Json(backend.device(&device).await?))
}

pub(super) async fn put<B: Backend>(
    State(backend): State<B>,
    Segments(device): Segments<String>,
    Body(declared): Body<DeviceConfig>,
) -> Answer<view::Device> {
    let name = String::from(declared.name().clone());
    if name != device {
        let message = format!(
            "the path names device \"{}\", and the body \"{}\"; a device keeps its name: give both the same",
            escape(device.as_bytes()),
            escape(name.as_bytes())
        );
        return Err(ApiError::new(ErrorCode::DeviceInvalid, message));
    }
    Ok(Json(backend.put_device(declared).await?))
}

pub(super) async fn remove<B: Backend>(
    State(backend): State<B>,
    Segments(device): Segments<String>,
) -> Result<StatusCode, ApiError> {
    // What cannot be a name is no device's.
    let name = DeviceName::try_from(device.clone()).map_err(|_| unknown_device(&device))?;
    backend.remove_device(name).await?;
    Ok(StatusCode::NO_CONTENT)
}
