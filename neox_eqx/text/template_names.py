"""The prompts that `--template` names, each with who documents it."""

from neox_eqx.text.named_template import NamedTemplate

_ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
_ALPACA_WITH_CONTEXT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)

NAMED_TEMPLATES = (
    # databricks/dolly-v2-12b: instruct_pipeline.py; github.com/databrickslabs/dolly: consts.py.
    NamedTemplate(
        name="dolly",
        system=_ALPACA,
        begin="{system}\n\n",
        user="### Instruction:\n{user}\n\n### Response:\n",
        user_with_context="### Instruction:\n{user}\n\nInput:\n{context}\n\n### Response:\n",
        answer="{answer}\n\n### End",
        next="\n\n",
        stop=("### End",),
    ),
    # nlpai-lab/kullm-polyglot-12.8b-v2; github.com/nlpai-lab/KULLM: templates/kullm.json.
    NamedTemplate(
        name="kullm",
        system="아래는 작업을 설명하는 명령어입니다. 요청을 적절히 완료하는 응답을 작성하세요.",
        system_with_context="아래는 작업을 설명하는 명령어와 추가 컨텍스트를 제공하는 "
        "입력이 짝을 이루는 예제입니다. 요청을 적절히 완료하는 응답을 작성하세요.",
        begin="{system}\n\n",
        user="### 명령어:\n{user}\n\n### 응답:\n",
        user_with_context="### 명령어:\n{user}\n\n### 입력:\n{context}\n\n### 응답:\n",
        next="\n\n",
        stop=("### 명령어:",),
    ),
    # beomi/KoAlpaca-Polyglot-12.8B, 5.8B; github.com/Beomi/KoAlpaca: the README's examples.
    NamedTemplate(
        name="koalpaca",
        begin="",
        user="### 질문: {user}\n\n### 답변:",
        user_with_context="### 질문: {user}\n\n### 맥락: {context}\n\n### 답변:",
        answer=" {answer}{eos}",
        next="\n\n",
        stop=("### 질문:",),
    ),
    # github.com/airobotlab/KoChatGPT, of Polyglot-Ko and KoGPT: PROMPT_DICT of its training.
    NamedTemplate(
        name="kogpt",
        system="Below is an instruction that describes a task.\n"
        "아래는 작업을 설명하는 명령어입니다.\n\n"
        "Write a response that appropriately completes the request.\n"
        "명령어에 따른 요청을 적절히 완료하는 응답을 작성하세요.",
        system_with_context="Below is an instruction that describes a task, paired with an input "
        "that provides further context.\n"
        "아래는 작업을 설명하는 명령어와 추가적 맥락을 제공하는 입력이 짝을 이루는 예제입니다.\n\n"
        "Write a response that appropriately completes the request.\n"
        "요청을 적절히 완료하는 응답을 작성하세요.",
        begin="{system}\n\n",
        user="### Instruction(명령어):\n{user}\n\n### Response(응답):",
        user_with_context="### Instruction(명령어):\n{user}\n\n### Input(입력):\n{context}\n\n"
        "### Response(응답):",
        next="\n\n",
        stop=("### Instruction(명령어):",),
    ),
    # togethercomputer/RedPajama-INCITE-Chat-3B-v1 and 7B-Chat: model cards.
    NamedTemplate(
        name="redpajama",
        begin="<human>:",
        user=" {user}\n<bot>:",
        answer=" {answer}\n<human>:",
        stop=("<human>:",),
    ),
    # stabilityai/stablelm-tuned-alpha-7b: model card; github.com/Stability-AI/StableLM: README.
    NamedTemplate(
        name="stablelm-tuned",
        system="# StableLM Tuned (Alpha version)\n"
        "- StableLM is a helpful and harmless open-source AI language model developed by "
        "StabilityAI.\n"
        "- StableLM is excited to be able to help the user, but will refuse to do anything that "
        "could be considered harmful to the user.\n"
        "- StableLM is more than just an information source, StableLM is also able to write "
        "poetry, short stories, and make jokes.\n"
        "- StableLM will refuse to participate in anything that could harm a human.\n",
        begin="<|SYSTEM|>{system}<|USER|>",
        user="{user}<|ASSISTANT|>",
        answer="{answer}<|USER|>",
        stop=("<|USER|>", "<|ASSISTANT|>", "<|SYSTEM|>"),
    ),
    # OpenAssistant/oasst-sft-4-pythia-12b-epoch-3.5: model card.
    NamedTemplate(
        name="oasst",
        begin="",
        user="<|prompter|>{user}{eos}<|assistant|>",
        stop=("<|prompter|>",),
    ),
    # allenai/open-instruct-pythia-6.9b-tulu: model card;
    # github.com/allenai/open-instruct: encode_with_messages_format, for what ends an answer.
    NamedTemplate(
        name="open-instruct",
        begin="",
        user="<|user|>\n{user}\n<|assistant|>\n",
        next="\n",
        stop=("<|user|>",),
    ),
    # github.com/tatsu-lab/stanford_alpaca: PROMPT_DICT of train.py.
    NamedTemplate(
        name="alpaca",
        system=_ALPACA,
        system_with_context=_ALPACA_WITH_CONTEXT,
        begin="{system}\n\n",
        user="### Instruction:\n{user}\n\n### Response:",
        user_with_context="### Instruction:\n{user}\n\n### Input:\n{context}\n\n### Response:",
        next="\n\n",
        stop=("### Instruction:",),
    ),
)
