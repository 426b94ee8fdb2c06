from django.apps import AppConfig


class MessagingConfig(AppConfig):
    name = "messaging"

    def ready(self) -> None:
        from engine.clock.schedules import Entry, register_schedule
        from engine.inbox.receipts import register
        from engine.processor.contract import register_queue
        from engine.run.runner import Runner
        from engine.watch.checks import register_check
        from messaging.processor import MessageProcessor
        from messaging.statuses import apply_whatsapp
        from messaging.watch import long_in_doubt

        register_queue("messaging", Runner(MessageProcessor()))
        register("whatsapp", lambda received: apply_whatsapp([one.body for one in received]))
        register_check("in_doubt", long_in_doubt)
        register_schedule(Entry("broadcasts", "messaging.actions.tend_broadcasts"))
