//! The Node of the agent itself.

use super::*;

#[test]
fn a_node_that_does_not_exist_is_told_until_it_does() {
    let (mut hub, _to_say) = hub();
    hub.take(Kind::Node, News::Begin);
    let told = |events: Vec<Event>| -> Vec<Option<String>> {
        let told = events.into_iter().filter_map(|event| match event {
            Event::NodeUnknown(why) => Some(why),
            _ => None,
        });
        told.collect()
    };
    assert_eq!(told(hub.due()), [], "before the first list, it is not known");
    hub.take(Kind::Node, News::Complete);
    let [Some(why)] = &told(hub.due())[..] else { panic!("it is not there") };
    assert!(why.starts_with("there is no Node node-1: "), "{why}");
    hub.take(Kind::Node, News::Changed(node(NODE)));
    assert_eq!(told(hub.due()), [None]);
    hub.take(Kind::Node, News::Failed("watch: forbidden".into()));
    assert_eq!(told(hub.due()), [], "the last state stays");
    hub.take(Kind::Node, News::Gone(node(NODE)));
    assert_eq!(told(hub.due()).len(), 1);
}
