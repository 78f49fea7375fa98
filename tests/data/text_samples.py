"""Texts that each check of single rows must tell, by where they stand; used by several tests.

All names, numbers and keys are invented, reserved for examples, or published for tests.
"""

from __future__ import annotations

_A, _HEX = "aB3dE5fG7h", "0123456789abcdef"

SECRETS = (
    "AKIAIOSFODNN7EXAMPLE", "-----BEGIN RSA PRIVATE KEY-----", "PuTTY-User-Key-File-3: ssh-rsa",
    "AGE-SECRET-KEY-1" + "Q" * 58, f"eyJ{_A}.eyJ{_A}.{_A}", "ghp_" + _A * 4,
    "github_pat_" + _A * 5, "glpat-" + _A * 2, "xoxb-" + _A * 2,
    "https://hooks.slack.com/services/T000/B000/" + _A * 2,
    "https://discord.com/api/webhooks/" + "1" * 18 + "/" + _A * 6,
    "M" + "T4y_" * 6 + ".aB3dE5." + _A * 3, "123456789:AA" + _A * 3 + "xyz",
    "AIza" + _A * 3 + "abcde",
    "GOCSPX-" + _A * 2 + "abcdefgh", "ya29." + _A * 4, "AccountKey=" + _A * 8 + "==",
    "abc8Q~" + _A * 3 + "ab", "LTAI" + _A * 2, "AKID" + _A * 3 + "ab", "dop_v1_" + _HEX * 4,
    "v1.0-" + _HEX[:12] * 2 + "-" + _HEX * 9, "hf_" + _A * 3 + "abcd", "sk-proj-" + _A * 3,
    "sk-ant-api03-" + _A * 3, "sk-or-v1-" + _HEX * 2, "gsk_" + _A * 5, "xai-" + _A * 8,
    "pplx-" + _A * 5, "r8_" + _A * 3 + "abcdefg", "sk_live_" + _A * 2, "whsec_" + _A * 3,
    "sq0atp-" + _A * 2 + "ab", "access_token$production$" + _HEX + "$" + _HEX * 2,
    "shpat_" + _HEX * 2, "npm_" + _A * 3 + "abcdef", "pypi-" + _A * 5, "rubygems_" + _HEX * 3,
    "dckr_pat_" + _A * 2, "dapi" + _HEX * 2, f"SG.{_A}{_A}ab.{_A * 4}abc", "SK" + _HEX * 2,
    "key-" + _HEX * 2, _HEX * 2 + "-us12", "NRAK-" + "A1B2C3D4E5" * 2 + "ABCDEFG",
    "glsa_" + _A * 3 + "ab_" + _HEX[:8], "sntryu_" + _HEX * 4, "lin_api_" + _A * 4,
    "ntn_" + "1" * 11 + _A * 3 + "abcde", "figd_" + _A * 4, "ATATT3" + _A * 5,
    "pat" + _A + "abcd." + _HEX * 4, "PMAK-" + _HEX[:12] * 2 + "-" + _HEX * 2 + "ab",
    "pul-" + _HEX * 2 + _HEX[:8], "pscale_pw_" + _A * 4, "sbp_" + _HEX * 2 + _HEX[:8],
    "nfp_" + _A * 3 + "abcdef", "dp.pt." + _A * 5, "hvs." + _A * 3,
    _A + "abcd.atlasv1." + _A * 7, "EAACEdEose0cBA" + _A,
    "postgres://admin:q8Zr2Lm9@db.example.com/x", "api_key = 'q8Zr2Lm9Xw4Tb7Vn1Kd5'",
    "password is Tr0ub4dor-3xq-9Zk2", "Authorization: Bearer q8Zr2Lm9/Xw4Tb7Vn1Kd5",
)  # fmt: skip

TEXTS: dict[str, tuple[str, ...]] = {
    "mojibake": (
        "itâ€™s fine",
        "a cafÃ© here",
        "lost \ufffd here",
        "itâ\x80\x99s",
        "Ð¿Ñ€Ð¸Ð²ÐµÑ‚ there",
        "ä½\xa0å¥½ä¸–ç•Œ",
        "вЂњquoted",
        "12 â‚¬ more",
        "Ã is Ã ",
    ),
    "control-characters": (
        "red \x1b[31m",
        "C1 \x9b31m",
        "invoice\u202egnp.exe",
        "pass\u200bword",
        "hid\U000e0041den",
        "lone\rreturn",
        "a\x0crac{1}{2}",
        "\x08eta",
        "soft\u00adhyphen",
        "bell\x07",
    ),
    "template-token": (
        "so <|im_end|>",
        "so [INST] x",
        "a [/INST]",
        "<<SYS>> be",
        "<</SYS>>",
        "end</s>",
        "<s>begin",
        "<start_of_turn>user",
        "x <eos>",
        "### Instruction:\nsay",
        "###\tResponse: x",
        "<｜end▁of▁sentence｜>",
        "a [SEP] b",
        "<extra_id_0>",
    ),
    "html": (
        "one<br>two",
        "<p>one</p>",
        "fish &amp; chips",
        "it&#39;s",
        "a <a href='x'>b</a>",
        "one<br/>two",
        "&nbsp;x",
        '<div class="a">b',
        "<li\n>x",
        "x&#x27;s",
    ),
    "double-escaped": (
        "One.\\nTwo.\\nThree.",
        "A list:\\n- one\\n- two",
        "caf\\u00e9 is good",
        "One\\n\\nTwo",
    ),
    "email": ("mail lena.novak+x@mail.example.org.", "x@example.com", "写信给lena@example.com。"),
    "phone": (
        "call +1 202 555 0143.",
        "call (202) 555-0178.",
        "or +44 20 7946 0958, any time",
        "phone number is 555 0143 22",
        "Tel.: 030 1234567",
        "我的手机是13800138000",
        "電話：03-1234-5678",
        "Телефон: 8 (495) 123-45-67",
        "202-555-0143",
        "+4915112345678",
        "fax (555 0143 22)",
        "Handy 0151/234 56 78",
    ),
    "card": ("card 4111-1111-1111-1111", "378282246310005", "4242 4242 4242 4242"),
    "iban": (
        "DE89 3704 0044 0532 0130 00",
        "to GB82WEST12345698765432.",
        "FR1420041010050500013M02606",
    ),
    "national-id": (
        "SSN 536-90-4399",
        "social security 536 90 4399",
        "DNI 12345678Z",
        "NIE X1234567L",
        "RSSMRA85T10A562S",
        "2 55 08 14 168 025 38",
        "Steuer-ID 86 095 742 719",
        "CPF 529.982.247-25",
        "身份证11010519491231002X号",
        "Aadhaar 2341 2341 2346",
        "PESEL 44051401359",
        "BSN 111222333",
        "my SIN 046 454 286",
        "personnummer 811218-9876",
        "131052-308T",
        "kimlik 10000000146",
        "身分證A123456789",
        "S1234567D",
        "112-233-445 95",
        "マイナンバー 1234 5678 9018",
        "national insurance AB 12 34 56 C",
    ),
    "ip-address": ("server at 93.184.216.34 ok", "2607:f8b0:4005:805::200e", "ssh 5.9.1.2 now"),
    "private-ip": (
        "at 192.168.1.17",
        "host 10.0.0.12",
        "fd12:3456:789a::1",
        "fe80::1ff:fe23:4567:890a",
    ),
    "secret": SECRETS,
    "homoglyph": ("the p\u0430ypal page", "\u0441\u0435рв\u0435p is", "Xвост тут", "Αrial font"),
}
"""Told in any turn."""

ANSWERS: dict[str, tuple[str, ...]] = {
    "placeholder": (
        "TODO", "N/A", "-", " none ", "…", "Dear [Your Name],", "Lorem ipsum dolor", "<nooutput>",
        "Sent by [insert company]", "TODO: write this", "Hello {{ first_name }}", "null!",
    ),
    "refusal": (
        "I'm sorry, but as an AI language model I cannot help with that.",
        "I cannot assist with this request.", "I’m sorry, but I can’t help with that.",
        "As an AI, I don't have access to customer messages.", "很抱歉，我无法回答这个问题。",
        "申し訳ありませんが、お答えできません。", "К сожалению, я не могу помочь.",
        "Lo siento, pero no puedo ayudar.",
        "Je suis désolé, mais je ne peux pas le faire.",
        "Es tut mir leid, aber ich kann das nicht.",
        "I must respectfully decline.", "That goes against my programming.",
        "죄송하지만 도와드릴 수 없습니다.",
    ),
    "ai-boilerplate": (
        "As an AI language model, here is a list.", "My knowledge cutoff is 2021.",
        "As of my last update, it is Paris.", "OpenAI's use case policy allows it.",
        "I don’t have personal opinions on cheese.", "Well, I am a large language model indeed.",
    ),
    "borrowed-identity": (
        "I am ChatGPT, nice to meet you.", "I'm an AI assistant called Claude.",
        "I was created by OpenAI.", "我是通义千问。", "My name is Bard.",
    ),
    "merged-examples": (
        "It is blue.\nUser: and grass?\nAssistant: green", "Yes.\n\nHuman: why?\nAI: because",
        "好。\n用户：为什么？\n助手：因为",
    ),
    "stray-script": ("The 结果 of the sum is three.", "It works хорошо with every file."),
}  # fmt: skip
"""Told in answers only."""

PROMPTS: dict[str, tuple[str, ...]] = {
    "placeholder-input": ("<noinput>", "N/A", "undefined", "None\n"),
    "missing-context": (
        "Describe the attached image.", "What is shown in this picture?",
        "Summarize the following text.",
        "https://example.com/a", "Summarize this article: https://example.com/news/1",
        "What does the graph below show?", "请看附件",
        "Rewrite the given sentence in the passive voice.",
        "See attached.",
    ),
}  # fmt: skip
"""Told in the first user turn only."""

LANGUAGES: tuple[tuple[str, str], ...] = (
    (
        "Wie kann ich mein Passwort ändern, wenn ich nicht mehr in das Konto komme und es eilt?",
        "You can change the password on the page that is for this, and the mail is sent from it.",
    ),
    (
        "How can I change the password of my account if the mail is not sent to me and it is late?",
        "Vous pouvez changer le mot de passe dans les réglages, et une page est là avec des notes.",
    ),
    (
        "How do I change the password of my account today?",
        "您可以在设置页面修改密码，请点击右上角的头像，然后选择安全。",
    ),
    (
        "Как мне изменить пароль от учётной записи сегодня?",
        "You can do it in the settings, under security.",
    ),
    (
        "请告诉我怎样修改账户的密码，我已经忘记了旧的密码。",
        "設定のページでパスワードを変更することができますので。",
    ),
)
"""A prompt and an answer in another language."""

SAID_IN = {
    "English": (
        "You can change the password in the settings. Click on the picture at the top right and "
        "choose security, and a message is sent to you from the system."
    ),
    "German": (
        "Sie können das Passwort in den Einstellungen ändern. Klicken Sie dazu oben "
        "rechts auf Ihr Bild und wählen Sie die Sicherheit aus, dann wird eine Mail "
        "verschickt."
    ),
    "French": (
        "Vous pouvez changer le mot de passe dans les réglages. Cliquez en haut à droite "
        "sur votre image, puis choisissez la sécurité, et un message est envoyé."
    ),
    "Spanish": (
        "Puede cambiar la contraseña en los ajustes. Haga clic en la imagen que está "
        "arriba a la derecha y elija la seguridad, y se envía un mensaje por correo."
    ),
    "Italian": (
        "Puoi cambiare la password nelle impostazioni. Fai clic in alto a destra sulla "
        "tua immagine e scegli la sicurezza, poi viene inviato un messaggio che è per "
        "te."
    ),
    "Portuguese": (
        "Você pode mudar a senha nas configurações. Clique na imagem no canto superior "
        "direito e escolha a segurança, e uma mensagem é enviada para o seu correio."
    ),
    "Dutch": (
        "U kunt het wachtwoord in de instellingen wijzigen. Klik rechtsboven op uw foto "
        "en kies voor de beveiliging, dan wordt een bericht naar u gestuurd, ook van "
        "ons."
    ),
    "Polish": (
        "Hasło można zmienić w ustawieniach. Kliknij na obrazek, który jest w prawym "
        "górnym rogu, i wybierz bezpieczeństwo, a potem wiadomość się wyśle na skrzynkę."
    ),
    "Swedish": (
        "Du kan ändra lösenordet i inställningarna. Klicka på bilden som är uppe till "
        "höger och välj säkerhet, och sedan skickas ett meddelande till dig som det är."
    ),
    "Danish": (
        "Du kan ændre adgangskoden i indstillingerne. Klik på billedet, som er øverst "
        "til højre, og vælg sikkerhed, og så sendes en besked til dig med det samme."
    ),
    "Turkish": (
        "Parolayı ayarlarda değiştirebilirsiniz. Sağ üstteki resme tıklayın ve güvenlik "
        "bölümünü seçin, bu işlem için size bir mesaj gönderilir ve daha sonra biter."
    ),
    "Indonesian": (
        "Anda dapat mengubah kata sandi di pengaturan. Klik gambar yang ada di kanan "
        "atas dan pilih keamanan, lalu pesan dikirim untuk Anda dari sistem ini."
    ),
    "Czech": (
        "Heslo můžete změnit v nastavení. Klikněte na obrázek, který je vpravo nahoře, a "
        "zvolte zabezpečení, pak se zpráva odešle na váš účet a je to."
    ),
    "Romanian": (
        "Puteți schimba parola în setări. Faceți clic pe imaginea care este în dreapta "
        "sus și alegeți securitatea, iar un mesaj este trimis pentru dumneavoastră din "
        "sistem."
    ),
    "Hungarian": (
        "A jelszót a beállításokban lehet módosítani. Kattintson a képre, hogy "
        "megnyíljon a menü, és válassza a biztonságot, mert az üzenet nem megy el, ha ez "
        "nincs meg, és vége."
    ),
    "Finnish": (
        "Salasanan voi vaihtaa asetuksissa. Napsauta kuvaa, joka on oikealla ylhäällä, "
        "ja valitse turvallisuus, kun viesti on lähetetty, ja se tai sen kopio ovat "
        "tallessa."
    ),
    "Vietnamese": (
        "Bạn có thể đổi mật khẩu trong phần cài đặt. Nhấn vào ảnh của bạn và chọn mục "
        "bảo mật, một thư được gửi cho bạn và không có gì khác là cần với các bước này."
    ),
}
"""The same in languages of Latin script."""
