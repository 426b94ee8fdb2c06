from django.apps import AppConfig


class MessagingConfig(AppConfig):
    name = "messaging"

    def ready(self) -> None:
        from engine.processors import register_queue
        from engine.receipts import register
        from engine.runner import Runner
        from engine.schedules import Entry, register_schedule
        from engine.watch import register_check
        from messaging.processor import MessageProcessor
        from messaging.statuses import apply_whatsapp
        from messaging.watch import long_in_doubt

        register_queue("messaging", Runner(MessageProcessor()))
        register("whatsapp", apply_whatsapp)
        register_check("in_doubt", long_in_doubt)
        register_schedule(Entry("broadcasts", "messaging.actions.tend_broadcasts"))
