STOP = ["the", "a", "of"]


def tag(text, stop):
    return "/".join(word for word in text.split() if word not in stop)
