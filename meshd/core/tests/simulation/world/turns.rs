//! Turns: what happens to a host, what its node makes of it, and when it wants to be woken.

use super::*;

impl World {
    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Input(at, life, input) => self.input(at, life, input),
            Event::Wake(at, life) => self.wake(at, life),
            Event::Pump(session, end) => self.pump(session, end),
            Event::Idle(session) => self.idle(session),
            Event::Datagram {
                session,
                to,
                vni,
                frame,
            } => self.datagram(session, to, vni, frame),
            Event::Connected {
                from,
                life,
                node,
                way,
                to,
            } => self.connected(from, life, node, way, to),
            Event::Sample(at, life) => self.sample(at, life),
            Event::Vxlan {
                from,
                to,
                vni,
                frame,
            } => self.vxlan(from, to, vni, frame),
            Event::Gauge(at, life) => {
                if self.hosts[at].life == life {
                    let news = self.hosts[at].kernel.traffic();
                    if !news.is_empty() {
                        self.input(at, life, Input::Kernel(KernelEvent::Traffic(news)));
                    }
                    self.later(50 * MS, Event::Gauge(at, life));
                }
            }
        }
    }

    pub(super) fn input(&mut self, at: usize, life: u64, input: Input) {
        let now = self.clock();
        self.note(at as u64);
        if let Input::Kernel(KernelEvent::Wired { port, .. }) = &input {
            // The shell has the lane before it tells the node.
            self.new_lane(at, Origin::Port(*port));
        }
        let host = &mut self.hosts[at];
        if host.life != life {
            return;
        }
        if let Input::Session(SessionEvent::Closed { session, .. }) = &input {
            let before: Vec<NodeId> = host.sessions.keys().map(|(node, _)| *node).collect();
            host.sessions.retain(|_, s| s != session);
            for node in before {
                if !host.sessions.keys().any(|(of, _)| *of == node) {
                    host.lanes.remove(&Origin::Peer(node));
                }
            }
        }
        if let Some(node) = &mut host.node {
            node.handle(input, now);
            self.act(at);
        }
    }

    pub(super) fn wake(&mut self, at: usize, life: u64) {
        let now = self.clock();
        let host = &mut self.hosts[at];
        if host.life != life || host.wake_at != Some(self.now) {
            return;
        }
        if std::env::var("MESHD_SIM_TRACE").is_ok() {
            eprintln!(
                "{:>9} us host {at} wakes: {:?}",
                now.moment.0 / 1000,
                host.node.as_ref().and_then(Node::poll_timeout)
            );
        }
        host.wake_at = None;
        for lane in host.lanes.values_mut() {
            lane.handle_timeout(now.moment);
        }
        if let Some(node) = &mut host.node {
            node.handle_timeout(now);
        }
        self.act(at);
    }

    pub(super) fn act(&mut self, at: usize) {
        let mut acts = Vec::new();
        if let Some(node) = &mut self.hosts[at].node {
            while let Some(output) = node.poll_output() {
                acts.push(output);
            }
        }
        let host = &mut self.hosts[at];
        for act in &acts {
            if let Output::Persist { key, value } = act {
                match value {
                    Some(value) => host.disk.insert(key.clone(), value.clone()),
                    None => host.disk.remove(key),
                };
            }
        }
        for act in acts {
            self.output(at, act);
        }
        self.schedule_wake(at);
    }

    pub(super) fn schedule_wake(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        let node = host
            .node
            .as_ref()
            .and_then(Node::poll_timeout)
            .map(|(moment, _)| moment);
        let lanes = host.lanes.values().filter_map(Lane::poll_timeout).min();
        let Some(Moment(due)) = [node, lanes].into_iter().flatten().min() else {
            return;
        };
        // A node that wants to be woken in the past must not stop the world's clock.
        let due = due.max(self.now + 1000);
        if host.wake_at.is_none_or(|earlier| due < earlier) {
            host.wake_at = Some(due);
            let life = host.life;
            self.later(due - self.now, Event::Wake(at, life));
        }
    }

    pub(super) fn output(&mut self, at: usize, output: Output) {
        if std::env::var("MESHD_SIM_TRACE").is_ok() {
            eprintln!("{:>9} us host {at}: {output:?}", self.now / 1000);
        }
        let life = self.hosts[at].life;
        match output {
            Output::Persist { .. }
            | Output::Serve(_)
            | Output::Unserve { .. }
            | Output::Steer { .. } => {}
            Output::Ways { node, live } => {
                self.hosts[at].live.insert(node, live);
            }
            Output::LinkProven { session, node, way } => self.proven(at, session, node, way),
            Output::DialLink { node, way, address } => {
                let nth = way.nth_link().unwrap();
                let to = (0..self.hosts.len()).find(|&to| address == link_address(to, nth));
                match to {
                    Some(to) => self.dial(at, life, node, way, to),
                    None => self.dial_failed(at, life, node, way),
                }
            }
            Output::Gate(op) => self.gate(at, op),
            Output::Plan { vni, plan } => {
                let kernel = &mut self.hosts[at].kernel;
                match &plan {
                    Some(plan) => kernel.plans.insert(vni, Arc::clone(plan)),
                    None => kernel.plans.remove(&vni),
                };
                if plan.as_ref().is_some_and(|plan| plan.vxlan.is_some()) {
                    let origin = Origin::Vxlan(vni);
                    if !self.hosts[at].lanes.contains_key(&origin) {
                        self.new_lane(at, origin);
                    }
                }
                let event = KernelEvent::Planned {
                    vni,
                    plan,
                    problems: Vec::new(),
                };
                self.later(3 * MS, Event::Input(at, life, Input::Kernel(event)));
            }
            Output::Probe { vni, probe } => {
                for segment in meshd_core::wire::probe::segments(&probe) {
                    self.transmit(at, vni, Bytes::from(segment));
                }
            }
            Output::Ruling {
                origin,
                upcall,
                ruling,
            } => self.ruling(at, origin, upcall, ruling),
            Output::Inject { to, frame, .. } => {
                if let ruling::Output::Port(port) = to {
                    self.deliver(at, port, &frame);
                }
            }
            // No plugin sends or mirrors in here.
            Output::Sent { .. } | Output::Monitor { .. } | Output::Inquiry { .. } => {}
            Output::Epoch(epoch) => self.hosts[at].epoch = epoch,
            Output::Track { vni, since } => {
                let host = &mut self.hosts[at];
                if let Some(zones) = host.zones.track(vni, since, 7) {
                    host.zones = zones;
                }
            }
            Output::Ask {
                query,
                epoch,
                question,
            } => {
                let denied = self.hosts[at].deny_port == Some(question.key.dst_port);
                let mask = FlowMask {
                    dst_port: 0xffff,
                    ..FlowMask::default()
                }
                .with_prerequisites();
                let answer = Answer {
                    mask,
                    ..Answer::of(if denied { Verdict::Drop } else { Verdict::Pass })
                };
                self.later(
                    50_000,
                    Event::Input(
                        at,
                        life,
                        Input::Answer {
                            query,
                            epoch,
                            answer: answer.into(),
                        },
                    ),
                );
            }
            Output::Dial { node, addresses } => {
                let to = (0..self.hosts.len()).find(|&to| addresses.contains(&address(to)));
                match to {
                    Some(to) => self.dial(at, life, node, WayId::MAIN, to),
                    None => self.dial_failed(at, life, node, WayId::MAIN),
                }
            }
            Output::Message { session, message } => {
                self.post(at, session, Parcel::Message(message))
            }
            Output::Proven { session, node } => {
                self.proven(at, session, node, WayId::MAIN);
            }
            Output::Hangup { session, reason } => self.post(at, session, Parcel::Close(reason)),
            Output::Wire(wiring) => {
                let record = wiring.port;
                let (port, ifname, mac) = (record.id, record.ifname.clone(), record.mac);
                self.hosts[at].ports.insert(port, record);
                self.later(
                    3 * MS,
                    Event::Input(
                        at,
                        life,
                        Input::Kernel(KernelEvent::Wired {
                            port,
                            ifname,
                            mac,
                            file: None,
                        }),
                    ),
                );
            }
            Output::Mend(wiring) => {
                let record = wiring.port;
                let event = KernelEvent::Mended {
                    port: record.id,
                    ifname: record.ifname,
                    mac: record.mac,
                    mended: Vec::new(),
                };
                self.later(3 * MS, Event::Input(at, life, Input::Kernel(event)));
            }
            Output::Unwire(record) => {
                let host = &mut self.hosts[at];
                host.ports.remove(&record.id);
                host.lanes.remove(&Origin::Port(record.id));
                let event = KernelEvent::Unwired {
                    port: record.id,
                    errors: Vec::new(),
                };
                self.later(2 * MS, Event::Input(at, life, Input::Kernel(event)));
            }
            Output::Reply { id, result } => {
                self.hosts[at].replies.insert(id, result);
            }
            Output::Notice(notice) => {
                let notices = &mut self.hosts[at].notices;
                notices.push_back(notice);
                if notices.len() > 200 {
                    notices.pop_front();
                }
            }
        }
    }
}
