//! Frames: out of a container, through lanes and gates, over sessions and VXLAN, into another one.

use super::*;

pub(super) fn udp_frame(src: MacAddr, dst: MacAddr, port: u16, id: FrameId) -> Bytes {
    let mut frame = Vec::new();
    frame.extend_from_slice(&dst.0);
    frame.extend_from_slice(&src.0);
    frame.extend_from_slice(&[0x08, 0x00]);
    // IPv4: 20 bytes of header, 8 of UDP, 16 of payload.
    frame.extend_from_slice(&[
        0x45, 0, 0, 44, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ]);
    frame.extend_from_slice(&4000u16.to_be_bytes());
    frame.extend_from_slice(&port.to_be_bytes());
    frame.extend_from_slice(&[0, 24, 0, 0]);
    frame.extend_from_slice(MAGIC);
    frame.extend_from_slice(&id.to_be_bytes());
    Bytes::from(frame)
}

pub(super) fn frame_id(frame: &[u8]) -> Option<FrameId> {
    let payload = frame.get(42..58)?;
    payload
        .strip_prefix(MAGIC.as_slice())
        .map(|id| u64::from_be_bytes(id.try_into().unwrap()))
}

impl World {
    pub(super) fn ruling(
        &mut self,
        at: usize,
        origin: Origin,
        upcall: meshd_core::ident::UpcallId,
        ruling: ruling::Ruling,
    ) {
        let now = self.clock().moment;
        let zones = self.hosts[at].zones.clone();
        let Some(lane) = self.hosts[at].lanes.get_mut(&origin) else {
            return;
        };
        let Some(released) = lane.ruling_in(&zones, upcall, ruling, now) else {
            return;
        };
        for frame in released.frames {
            self.forward(at, released.vni, &frame, &released.to, released.route);
        }
    }

    pub(super) fn lane_frame(&mut self, at: usize, origin: Origin, vni: Vni, frame: Bytes) {
        let now = self.clock();
        let epoch = self.hosts[at].epoch;
        let zones = self.hosts[at].zones.clone();
        let Some(lane) = self.hosts[at].lanes.get_mut(&origin) else {
            return;
        };
        match lane.frame_in(&zones, vni, &Unit::frame(&frame), epoch, now.moment) {
            Step::Forward {
                to, route, offer, ..
            } => {
                self.forward(at, vni, &frame, &to, route);
                if offer {
                    let life = self.hosts[at].life;
                    let offer = Input::Offer { origin, vni, frame };
                    self.later(20_000, Event::Input(at, life, offer));
                }
            }
            Step::Upcall { upcall, frame, ct } => {
                let life = self.hosts[at].life;
                self.later(
                    20_000,
                    Event::Input(
                        at,
                        life,
                        Input::Upcall {
                            origin,
                            upcall,
                            vni,
                            frame,
                            ct,
                        },
                    ),
                );
            }
            Step::Cut | Step::Parked | Step::Dropped(_) | Step::Consumed => {}
        }
        self.schedule_wake(at);
    }

    pub(super) fn forward(
        &mut self,
        at: usize,
        vni: Vni,
        frame: &Bytes,
        to: &[ruling::Output],
        route: Route,
    ) {
        for output in to {
            match output {
                ruling::Output::Port(port) => self.deliver(at, *port, frame),
                ruling::Output::Peer(node) => self.cross(at, *node, vni, frame, route),
            }
        }
    }

    pub(super) fn cross(&mut self, at: usize, node: NodeId, vni: Vni, frame: &Bytes, route: Route) {
        let Some(to) = self.host_of(node) else {
            panic!("host {at} sends to {node:?}, who does not exist")
        };
        if let Some(id) = frame_id(frame) {
            let revoked = self.hosts[at]
                .node
                .as_ref()
                .is_some_and(|n| n.directory().is_revoked(node));
            self.checkers.crossed(id, at, to, node, revoked);
        }
        let live = self.hosts[at].live.get(&node).map(|live| live.ways());
        let any = || {
            (2..=8)
                .filter_map(WayId::new)
                .find(|way| live.is_none_or(|l| l.has(*way)))
        };
        let way = match route {
            Route::Any => any(),
            Route::Prefer(way) | Route::Only(way) => Some(way),
        };
        let Some(way) = way else { return };
        let Some(&session) = self.hosts[at].sessions.get(&(node, way)) else {
            return;
        };
        if !self.open(at, to, way) {
            return;
        }
        if frame_id(frame).is_some() {
            *self.crossed.entry(way).or_default() += 1;
        }
        if let Some(delay) = self.weather.datagram_ns(&mut self.rng) {
            self.later(
                delay,
                Event::Datagram {
                    session,
                    to,
                    vni,
                    frame: frame.clone(),
                },
            );
        }
    }

    pub(super) fn datagram(&mut self, session: SessionId, to: usize, vni: Vni, frame: Bytes) {
        let Some(state) = self.sessions.get(&session) else {
            return;
        };
        let from = if state.ends[0].0 == to {
            state.ends[1].0
        } else {
            state.ends[0].0
        };
        let way = state.way;
        let from = self.id(from);
        self.note(2);
        // The shell reads frames only from the session that is in use.
        if self.hosts[to].sessions.get(&(from, way)) == Some(&session) {
            self.lane_frame(to, Origin::Peer(from), vni, frame);
        }
    }

    pub(super) fn gate(&mut self, at: usize, op: GateOp) {
        self.hosts[at].kernel.act(op);
    }

    pub(super) fn container_sends(&mut self, at: usize, port: PortId, vni: Vni, frame: Bytes) {
        let now = self.clock().moment;
        match self.hosts[at].kernel.port_sends(port, vni, &frame, now) {
            Fate::Up => self.lane_frame(at, Origin::Port(port), vni, frame),
            Fate::Port(to) => {
                self.by_kernel += 1;
                self.deliver(at, to, &frame);
            }
            Fate::Vtep => self.transmit(at, vni, frame),
            Fate::Lost => panic!("a gate let pass what the bridge does not know"),
        }
    }

    /// Out of a network's VXLAN device.
    pub(super) fn transmit(&mut self, at: usize, vni: Vni, frame: Bytes) {
        let Some(vtep) = frame
            .first_chunk::<6>()
            .and_then(|dst| self.hosts[at].kernel.vtep(vni, MacAddr(*dst)))
        else {
            return;
        };
        let Some(to) = (0..self.hosts.len()).find(|&to| address(to).ip() == vtep) else {
            return;
        };
        let lost = self.parting.parted(at, to) || self.vxlan_cut.contains(&(at, to));
        if let Some(delay) = self.weather.datagram_ns(&mut self.rng).filter(|_| !lost) {
            let event = Event::Vxlan {
                from: at,
                to,
                vni,
                frame,
            };
            self.later(delay, event);
        }
    }

    pub(super) fn vxlan(&mut self, from: usize, to: usize, vni: Vni, frame: Bytes) {
        let now = self.clock().moment;
        self.note(3);
        let ip = address(from).ip();
        match self.hosts[to].kernel.vxlan_receives(ip, vni, &frame, now) {
            // The fence, or no such network.
            None => {}
            Some(Fate::Port(port)) => {
                self.by_kernel += 1;
                self.deliver(to, port, &frame);
            }
            Some(Fate::Up) if meshd_core::wire::probe::is_probe(&frame) => {
                let life = self.hosts[to].life;
                self.input(to, life, Input::Probe { vni, frame });
            }
            Some(Fate::Up) => self.lane_frame(to, Origin::Vxlan(vni), vni, frame),
            Some(Fate::Vtep | Fate::Lost) => panic!("VXLAN goes on to a VTEP, or nowhere"),
        }
    }

    pub(super) fn deliver(&mut self, at: usize, port: PortId, frame: &Bytes) {
        let Some(id) = frame_id(frame) else { return };
        let Some(record) = self.hosts[at].ports.get(&port) else {
            return;
        };
        let vni = record.vni;
        self.note(id);
        self.checkers.delivered(id, at, port, vni);
    }
}
