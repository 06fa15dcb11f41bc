//! Name services that the kernel refuses.

use super::*;

fn served(outputs: &[Output]) -> Vec<ServiceWiring> {
    let serve = |o: &Output| match o {
        Output::Serve(wiring) => Some(wiring.clone()),
        _ => None,
    };
    outputs.iter().filter_map(serve).collect()
}

impl Lab {
    /// The first port of a network, and the service that is wanted with it.
    fn begun(&mut self, name: &str) -> (PortRecord, ServiceWiring) {
        self.attach(spec(name, "a"));
        let outputs = self.outputs();
        let wiring = wire_of(&outputs).unwrap();
        self.wired(&wiring.port);
        self.outputs();
        (wiring.port, served(&outputs).remove(0))
    }

    fn serve_failed(&mut self, service: &ServiceWiring) {
        let reason = "no namespace".to_owned();
        self.ports.serve_failed(service.port, reason, self.now);
    }

    /// At this moment.
    fn at(&mut self, moment: Moment) -> Vec<Output> {
        self.now.moment = moment;
        self.ports
            .handle_timeout(&self.around, &mut self.pools, self.now, &mut self.out);
        self.outputs()
    }
}

#[test]
fn a_name_service_that_failed_is_tried_again_with_growing_pauses_until_it_is_there() {
    let mut lab = Lab::new(ME);
    let (_, service) = lab.begun("red");
    assert_eq!(lab.ports.poll_timeout(), None);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        lab.serve_failed(&service);
        let told: Vec<_> = lab.ports.unserved().collect();
        assert_eq!(told, [(service.vni, "no namespace")]);
        let (due, _) = lab.ports.poll_timeout().unwrap();
        pauses.push(due.ms_since(lab.now.moment));
        // Not before its time, and once.
        assert!(served(&lab.at(lab.now.moment)).is_empty());
        assert_eq!(served(&lab.at(due)), std::slice::from_ref(&service));
        assert_eq!(lab.ports.poll_timeout(), None);
        // It is told as long as nobody says that it is there.
        assert_eq!(lab.ports.unserved().count(), 1);
    }
    assert_eq!(pauses, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
    lab.ports.served(service.port);
    assert_eq!(lab.ports.unserved().count(), 0);
    // The next fault begins with short pauses again.
    lab.serve_failed(&service);
    let (due, _) = lab.ports.poll_timeout().unwrap();
    assert_eq!(due.ms_since(lab.now.moment), 1000);
}

#[test]
fn a_name_service_is_tried_no_more_when_the_last_port_is_gone() {
    let mut lab = Lab::new(ME);
    let (port, service) = lab.begun("red");
    lab.serve_failed(&service);
    lab.detach(&port.id.to_string());
    lab.unwired(port.id, &[]);
    lab.outputs();
    assert_eq!(lab.ports.unserved().count(), 0);
    assert_eq!(lab.ports.poll_timeout(), None);
    // The answer to the last try comes late.
    lab.serve_failed(&service);
    assert_eq!(lab.ports.poll_timeout(), None);
}

#[test]
fn the_fault_of_a_former_service_is_not_taken_for_one_of_that_in_its_place() {
    let mut lab = Lab::new(ME);
    let (_, former) = lab.begun("red");
    lab.serve_failed(&former);
    let mut red = lab.around.networks[1].clone();
    red.mtu -= 50;
    lab.redefine(red.vni, Some(red.clone()));
    let outputs = lab.outputs();
    let anew = served(&outputs).remove(0);
    assert_eq!((anew.vni, anew.mtu), (former.vni, red.mtu));
    assert!(anew.port != former.port);
    assert_eq!(lab.ports.unserved().count(), 0);
    lab.serve_failed(&former);
    assert_eq!(lab.ports.unserved().count(), 0);
    lab.serve_failed(&anew);
    assert_eq!(lab.ports.unserved().count(), 1);
}
