from django.apps import AppConfig


class MessagingConfig(AppConfig):
    name = "messaging"

    def ready(self) -> None:
        from engine.receipts import register
        from engine.schedules import Entry, register_schedule
        from messaging.statuses import apply_whatsapp

        register("whatsapp", apply_whatsapp)
        register_schedule(Entry("broadcasts", "messaging.actions.tend_broadcasts"))
